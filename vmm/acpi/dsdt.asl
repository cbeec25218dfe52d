// What of the machine software cannot find out by itself. Addresses are those of vmm/layout.h.
// Source: ACPI 6.5, chapters 6 and 19.
DefinitionBlock ("", "DSDT", 2, "PLUMB", "PLUMBVM", 0x00000001)
{
    // Soft off: SLP_TYP as in acpi/pm_block.h.
    Name (\_S5, Package (4) { Zero, Zero, Zero, Zero })

    Scope (\_SB)
    {
        Device (PCI0)
        {
            Name (_HID, EisaId ("PNP0A08"))
            Name (_CID, EisaId ("PNP0A03"))
            Name (_SEG, Zero)
            Name (_BBN, Zero)
            Name (_UID, Zero)
            Name (_CRS, ResourceTemplate ()
            {
                WordBusNumber (ResourceProducer, MinFixed, MaxFixed, PosDecode,
                    0x0000, 0x0000, 0x00FF, 0x0000, 0x0100)
                IO (Decode16, 0x0CF8, 0x0CF8, 0x01, 0x08)
                WordIO (ResourceProducer, MinFixed, MaxFixed, PosDecode, EntireRange,
                    0x0000, 0x0000, 0x0CF7, 0x0000, 0x0CF8)
                WordIO (ResourceProducer, MinFixed, MaxFixed, PosDecode, EntireRange,
                    0x0000, 0x0D00, 0xFFFF, 0x0000, 0xF300)
                DWordMemory (ResourceProducer, PosDecode, MinFixed, MaxFixed,
                    NonCacheable, ReadWrite,
                    0x00000000, 0xC0000000, 0xDFFFFFFF, 0x00000000, 0x20000000)
            })

            // Without native control of anything the kernel keeps off PCI Express services that
            // this bus does not have.
            Method (_OSC, 4, NotSerialized)
            {
                CreateDWordField (Arg3, Zero, CDW1)
                If (Arg0 == ToUUID ("33db4d5b-1ff7-401c-9657-7441c03dd766"))
                {
                    CreateDWordField (Arg3, 8, CDW3)
                    CDW3 = Zero
                }
                Else
                {
                    CDW1 |= 0x04
                }
                Return (Arg3)
            }

            // The registers of acpi/pci_hotplug.h.
            OperationRegion (PHPR, SystemIO, 0x0680, 0x10)
            Field (PHPR, DWordAcc, NoLock, WriteAsZeros)
            {
                PLGD, 32,
                ASKD, 32,
                EJCT, 32
            }

            // What came and what is asked to leave, each told once.
            Method (PSCN, 0, Serialized)
            {
                Local0 = PLGD
                PLGD = Local0
                Local1 = ASKD
                ASKD = Local1
                TELL (Local0, One)
                TELL (Local1, 3)
            }

            // Slots 1 to 30, each with _SUN, _ADR and _EJ0, and TELL, which notifies those of a
            // mask; made by CMakeLists.txt.
            Include ("pci_slots.asl")

            Device (LPC)
            {
                Name (_ADR, 0x001F0000)

                Device (COM1)
                {
                    Name (_HID, EisaId ("PNP0501"))
                    Name (_UID, One)
                    Name (_CRS, ResourceTemplate ()
                    {
                        IO (Decode16, 0x03F8, 0x03F8, 0x01, 0x08)
                        IRQNoFlags () { 4 }
                    })
                }

                Device (RTC)
                {
                    Name (_HID, EisaId ("PNP0B00"))
                    Name (_CRS, ResourceTemplate ()
                    {
                        IO (Decode16, 0x0070, 0x0070, 0x01, 0x02)
                    })
                }
            }
        }

        // Virtual Machine Generation ID: names a state of the VM's life, so that the guest notices
        // when it has become a copy, or its own past. "VM_Gen_Counter" is longer than ACPI allows;
        // guests look for either. No Notify: it changes only while the VM is off.
        Device (VGEN)
        {
            Name (_HID, "PLMB0001")
            Name (_CID, Package (2) { "VM_Gen_Counter", "VMGENCTR" })
            Name (_DDN, "VM_Gen_Counter")
            // Low and high half of kGenerationId.
            Name (ADDR, Package (2) { 0x000EF000, Zero })
        }

        // Kept from everyone else: ECAM, the ACPI registers.
        Device (MBRD)
        {
            Name (_HID, EisaId ("PNP0C02"))
            Name (_UID, Zero)
            Name (_CRS, ResourceTemplate ()
            {
                Memory32Fixed (ReadWrite, 0xE0000000, 0x10000000)
                IO (Decode16, 0x0600, 0x0600, 0x01, 0x80)
                IO (Decode16, 0x0680, 0x0680, 0x01, 0x10)
            })
        }
    }

    Scope (\_GPE)
    {
        // kGpePciHotplug of acpi/pm_block.h.
        Method (_E01, 0, NotSerialized)
        {
            \_SB.PCI0.PSCN ()
        }
    }
}
