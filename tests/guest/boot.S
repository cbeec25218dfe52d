// Entry of the probe guest: PVH (32-bit, paging off, ebx = hvm_start_info) to 64-bit user mode.
//
// As little as possible runs at CPL 0: a software KVM emulates each of those instructions, while
// CPL 3 code runs at native speed. Page tables are therefore data, not code. Ports are allowed by
// the I/O bitmap of the TSS, because a software KVM does not keep IOPL over iretq.

    .section .note.pvh, "a", @note
    .long 4, 4, 18                 // name size, descriptor size, XEN_ELFNOTE_PHYS32_ENTRY
    .asciz "Xen"
    .long entry

    .text
    .code32
    .globl entry
entry:
    movw $0x3f8, %dx               // the first sign of life: what "start" is measured to
    movb $'P', %al
    outb %al, %dx

    lgdt gdt_pointer
    movl $page_map, %eax
    movl %eax, %cr3
    movl %cr4, %eax
    orl $0x20, %eax                // PAE
    movl %eax, %cr4
    movl $0xc0000080, %ecx         // EFER
    rdmsr
    orl $0x100, %eax               // LME
    wrmsr
    movl %cr0, %eax
    orl $0x80000001, %eax          // PG, PE
    movl %eax, %cr0
    ljmpl $0x08, $long_mode

    .code64
long_mode:
    movw $0x10, %ax
    movw %ax, %ss
    movw %ax, %ds
    movw %ax, %es
    movl $0x28, %eax
    ltr %ax
    movl $stack_end, %esp          // PVH leaves it undefined
    movl %ebx, %edi                // first argument: hvm_start_info
    pushq $0x1b                    // ss
    pushq $user_stack_end
    pushq $0x2                     // rflags: interrupts off
    pushq $0x23                    // cs
    pushq $probe_main
    iretq

    .data
    .balign 16
gdt:
    .quad 0
    .quad 0x00af9b000000ffff       // 0x08 code, CPL 0, 64-bit
    .quad 0x00cf93000000ffff       // 0x10 data, CPL 0
    .quad 0x00cff3000000ffff       // 0x18 data, CPL 3
    .quad 0x00affb000000ffff       // 0x20 code, CPL 3, 64-bit
    // 0x28: TSS at tss; its address is below 16 MiB, so 24 bits of base do.
    .word tss_end - tss - 1
    .word tss_low
    .byte tss_high
    .byte 0x89, 0, 0
    .quad 0
gdt_pointer:
    .word gdt_pointer - gdt - 1
    .long gdt

    .balign 16
    .globl tss
tss:
    .skip 0x66
    .word tss_bitmap - tss
tss_bitmap:
    .skip 8192, 0                  // every port allowed
    .byte 0xff
tss_end:

    // The first 4 GiB one to one, in 2 MiB pages: present, writable, user, accessed, dirty.
    .balign 4096
page_map:
    .quad page_pointers + 0x27
    .skip 4088
page_pointers:
    .quad page_directories + 0x0027
    .quad page_directories + 0x1027
    .quad page_directories + 0x2027
    .quad page_directories + 0x3027
    .skip 4064
page_directories:
    .set page, 0
    .rept 2048
    .quad page + 0xe7
    .set page, page + 0x200000
    .endr

    .bss
    .balign 4096
    .skip 4096
stack_end:
    .skip 65536
user_stack_end:

    .section .note.GNU-stack, "", @progbits
