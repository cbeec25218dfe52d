#include "cli/vm_main.h"

int main(int argc, char** argv) { return plumb::vm_main(argc, argv); }
