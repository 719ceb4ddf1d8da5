// SPDX-License-Identifier: MIT OR Apache-2.0
// See vmalloc/kernel.h.
#include <vmalloc/kernel.h>
