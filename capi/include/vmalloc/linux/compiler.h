// SPDX-License-Identifier: MIT OR Apache-2.0
// Words to the compiler.
#ifndef VMALLOC_LINUX_COMPILER_H
#define VMALLOC_LINUX_COMPILER_H

#define likely(holds) __builtin_expect(!!(holds), 1)
#define unlikely(holds) __builtin_expect(!!(holds), 0)
#define READ_ONCE(place) (*(const volatile __typeof__(place) *)&(place))
#define WRITE_ONCE(place, value) (*(volatile __typeof__(place) *)&(place) = (value))
#define barrier() __asm__ __volatile__("" ::: "memory")

#ifndef noinline
#define noinline __attribute__((noinline))
#endif
#ifndef __always_inline
#define __always_inline inline __attribute__((always_inline))
#endif
#ifndef __maybe_unused
#define __maybe_unused __attribute__((unused))
#endif

#endif
