# Traps: from the gate to `trap_handler` and back.
#
# Code that the compiler made keeps live data below rsp, up to 128 bytes of it
# (the red zone), and has no notion of a trap. So every gate switches to a
# stack of its own (IST 1), where nothing of the interrupted code is. But that stack has room for one
# trap only, and handlers may be interrupted in turn: so the frame is copied
# below the red zone of the interrupted stack, and IST 1 is left before
# anything else happens. Between gate and copy interrupts are off and nothing
# faults, except that the interrupted stack may be at its end: the copy then
# faults in the stack's guard, which is found out below.
#
# Not copied, but handled where they are: NMI, #DF, #MC, which have stacks of their own and may come
# anywhere, in the copying too; and a page fault in the guard of this CPU's
# stack, where no room is for a copy. NMI handlers cause no traps: the stub that
# they interrupted may be on IST 1.
#
# SSE registers are the compiler's to use in the handler: they are saved.
.section .text.trap, "ax", @progbits
.code64
.set GUARD, 16                  # of a Local, from GS
.set PAGE_FAULT, 14

.macro STUB n
.balign 16
trap_\n:
.if !((\n == 8) || ((\n >= 10) && (\n <= 14)) || (\n == 17) || (\n == 21) || (\n == 29) || (\n == 30))
  push $0                       # no error code
.endif
  push $\n
.if (\n == 2) || (\n == 8) || (\n == 18)
  jmp trap_here
.else
  jmp trap_copied
.endif
.endm
.altmacro
.macro STUBN n
  STUB \n
.endm
.set v, 0
.rept 64
  STUBN %v
  .set v, v + 1
.endr

trap_copied:                    # 0 vector, 8 error, 16 rip, 24 cs, 32 flags, 40 rsp, 48 ss
  push %rax
  push %rcx                     # the above by 16 more
  cmpq $PAGE_FAULT, 16(%rsp)
  jne 1f
  mov %cr2, %rax
  sub %gs:GUARD, %rax
  cmp $4096, %rax
  jb 2f
1:
  mov 56(%rsp), %rax
  sub $128, %rax
  and $-16, %rax
  sub $56, %rax                 # as aligned as a gate leaves it
.irp at, 16, 24, 32, 40, 48, 56, 64
  mov \at(%rsp), %rcx
  mov %rcx, \at-16(%rax)
.endr
  mov 8(%rsp), %rcx
  mov %rcx, -8(%rax)            # rax
  mov (%rsp), %rcx
  lea -8(%rax), %rsp
  jmp 3f
2:
  pop %rcx
  jmp 3f
trap_here:
  push %rax
3:
  push %rcx
  push %rdx
  push %rsi
  push %rdi
  push %r8
  push %r9
  push %r10
  push %r11
  push %rbx
  push %rbp
  push %r12
  push %r13
  push %r14
  push %r15
  mov %rsp, %rdi
  sub $512, %rsp
  fxsave64 (%rsp)
  cld
  call trap_handler
  fxrstor64 (%rsp)
  add $512, %rsp
  pop %r15
  pop %r14
  pop %r13
  pop %r12
  pop %rbp
  pop %rbx
  pop %r11
  pop %r10
  pop %r9
  pop %r8
  pop %rdi
  pop %rsi
  pop %rdx
  pop %rcx
  pop %rax
  add $16, %rsp
  iretq

# probe_load(rdi) and probe_store(rdi, rsi): rax = 0, rdx = what was loaded; or,
# if the access faults, the handler goes on at probe_failed: rax = 1.
.global probe_load
.global probe_load_at
probe_load:
  xor %eax, %eax
probe_load_at:
  mov (%rdi), %rdx
  ret
.global probe_store
.global probe_store_at
probe_store:
  xor %eax, %eax
  xor %edx, %edx
probe_store_at:
  mov %rsi, (%rdi)
  ret
.global probe_failed
probe_failed:
  mov $1, %eax
  ret

.section .rodata.trap, "a", @progbits
.balign 8
.global trap_stubs
trap_stubs:
.macro STUB_ADDRESS n
  .quad trap_\n
.endm
.set v, 0
.rept 64
  STUB_ADDRESS %v
  .set v, v + 1
.endr
.noaltmacro
