// SPDX-License-Identifier: MIT OR Apache-2.0
// See linux/module.h.
#include <linux/module.h>
