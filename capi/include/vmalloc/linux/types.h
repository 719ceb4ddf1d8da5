// SPDX-License-Identifier: MIT OR Apache-2.0
// Types of a kernel, besides those that Linux shows to programs.
#ifndef VMALLOC_LINUX_TYPES_H
#define VMALLOC_LINUX_TYPES_H

#if __has_include_next(<linux/types.h>)
#include_next <linux/types.h>
#endif
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

typedef int8_t s8;
typedef uint8_t u8;
typedef int16_t s16;
typedef uint16_t u16;
typedef int32_t s32;
typedef uint32_t u32;
typedef long long s64;
typedef unsigned long long u64;
typedef u64 phys_addr_t;

#endif
