# From the boot loader to Rust, on the boot CPU and on the others.
#
# PVH enters `boot_start` in 32-bit protected mode, paging off, ebx = the start
# info. Other CPUs begin in real mode, in the copy of the trampoline at 0x8000.
# Both come to 64-bit mode over `boot_long_mode` and static tables, which map the
# first 1 GiB at 0 and at IMAGE. Five levels where the CPU has them: CR4.LA57
# can only change while paging is off.
.set IMAGE, 0xffffffff80000000

.section .note.Xen, "a", @note
.balign 4
  .long 4, 8, 18               # sizes of name and value; XEN_ELFNOTE_PHYS32_ENTRY
  .asciz "Xen"
  .quad boot_start

.section .boot.data, "aw", @progbits
.balign 4096
boot_table5:                   # accessed (0x20) is preset everywhere
  .quad boot_table4 + 0x23
  .fill 510, 8, 0
  .quad boot_table4 + 0x23
boot_table4:
  .quad boot_table3_low + 0x23
  .fill 510, 8, 0
  .quad boot_table3_high + 0x23
boot_table3_low:
  .quad boot_table2 + 0x23
  .fill 511, 8, 0
boot_table3_high:
  .fill 510, 8, 0
  .quad boot_table2 + 0x23
  .quad 0
boot_table2:
  .set i, 0
  .rept 512
  .quad (i << 21) + 0xe3       # a large page, writable, accessed, dirty
  .set i, i + 1
  .endr
boot_gdt:
  .quad 0
  .quad 0x00af9a000000ffff     # 0x08: code, 64 bits
  .quad 0x00cf92000000ffff     # 0x10: data
  .quad 0x00cf9a000000ffff     # 0x18: code, 32 bits
boot_gdt_pointer:
  .word 31
  .long boot_gdt
  .long 0

.section .boot.text, "ax", @progbits
.code32
boot_start:
  cli
  cld
  mov %ebx, %ebp
  mov $1f, %esi
  jmp boot_long_mode
1:
  lgdt boot_gdt_pointer
  ljmp $0x08, $2f
.code64
2:
  mov $0x10, %eax
  mov %eax, %ss
  mov %eax, %ds
  mov %eax, %es
  movabs $boot_high, %rax
  jmp *%rax

# Returns to esi in compatibility mode; uses eax, ebx, ecx, edx, edi.
# CR4: PAE, OSFXSR, OSXMMEXCPT; PGE and LA57 if the CPU has them. EFER: LME, NXE.
# CR0: PG, WP, NE, MP, PE; not EM, not TS: the compiler uses SSE.
.code32
boot_long_mode:
  mov $1, %eax
  cpuid                        # clobbers eax, ebx, ecx and edx
  mov $boot_table4, %edi
  and $0x2000, %edx            # PGE: bit 13 there, bit 7 of CR4
  shr $6, %edx
  or $0x620, %edx
  mov %cr4, %eax
  or %edx, %eax
  mov %eax, %cr4
  xor %eax, %eax
  cpuid
  cmp $7, %eax                 # a leaf past the last has another one's bits
  jb 1f
  mov $7, %eax
  xor %ecx, %ecx
  cpuid
  test $0x10000, %ecx
  jz 1f
  mov %cr4, %eax
  or $0x1000, %eax
  mov %eax, %cr4
  mov $boot_table5, %edi
1:
  mov %edi, %cr3
  mov $0xc0000080, %ecx
  rdmsr
  or $0x900, %eax
  wrmsr
  mov %cr0, %eax
  and $0xfffffff3, %eax
  or $0x80010023, %eax
  mov %eax, %cr0
  jmp *%esi

# The trampoline: position-dependent, in its copy at TRAMPOLINE.
.set TRAMPOLINE, 0x8000
.balign 16
.code16
.global trampoline_start
trampoline_start:
  cli
  cld
  xor %ax, %ax
  mov %ax, %ds
  lgdtl TRAMPOLINE + (trampoline_gdt_pointer - trampoline_start)
  mov %cr0, %eax
  or $1, %eax
  mov %eax, %cr0
  ljmpl $0x18, $(TRAMPOLINE + (1f - trampoline_start))
.code32
1:
  mov $0x10, %ax
  mov %ax, %ds
  mov %ax, %es
  mov %ax, %ss
  mov $(TRAMPOLINE + (2f - trampoline_start)), %esi
  mov $boot_long_mode, %eax
  jmp *%eax
2:
  ljmp $0x08, $(TRAMPOLINE + (3f - trampoline_start))
.code64
3:
  mov TRAMPOLINE + (trampoline_words - trampoline_start), %rcx       # CR3
  mov TRAMPOLINE + (trampoline_words - trampoline_start) + 8, %rdx   # rsp
  mov TRAMPOLINE + (trampoline_words - trampoline_start) + 16, %rdi  # what Rust gets
  movabs $boot_other_high, %rax
  jmp *%rax
.balign 16
trampoline_gdt:
  .quad 0
  .quad 0x00af9a000000ffff
  .quad 0x00cf92000000ffff
  .quad 0x00cf9a000000ffff
trampoline_gdt_pointer:
  .word 31
  .long TRAMPOLINE + (trampoline_gdt - trampoline_start)
.balign 8
.global trampoline_words
trampoline_words:
  .quad 0, 0, 0
.global trampoline_end
trampoline_end:

.section .text.boot, "ax", @progbits
.code64
.global boot_entry
boot_entry:
  ud2                          # the ELF entry, which PVH does not use
boot_high:
  lea boot_stack_top(%rip), %rsp
  mov %ebp, %edi
  xor %ebp, %ebp
  call boot_main
  ud2
boot_other_high:               # the image is mapped alike in both tables
  mov %rcx, %cr3
  mov %rdx, %rsp
  xor %ebp, %ebp
  call other_main
  ud2
# Goes on with `call_on_stack(entry: rdi, top: rsi)`, never to return.
.global call_on_stack
call_on_stack:
  mov %rsi, %rsp
  xor %ebp, %ebp
  call *%rdi
  ud2

.section .bss.boot, "aw", @nobits
.balign 16
  .skip 65536
boot_stack_top:
