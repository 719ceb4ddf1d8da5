// SPDX-License-Identifier: MIT OR Apache-2.0
// The log of a module: the standard error output.
#ifndef VMALLOC_LINUX_PRINTK_H
#define VMALLOC_LINUX_PRINTK_H

#include <stdarg.h>
#include <stdio.h>

#define KERN_SOH "\001"
#define KERN_EMERG KERN_SOH "0"
#define KERN_ALERT KERN_SOH "1"
#define KERN_CRIT KERN_SOH "2"
#define KERN_ERR KERN_SOH "3"
#define KERN_WARNING KERN_SOH "4"
#define KERN_NOTICE KERN_SOH "5"
#define KERN_INFO KERN_SOH "6"
#define KERN_DEBUG KERN_SOH "7"
#define KERN_CONT ""

// The level stands before the line, and is not printed.
__attribute__((format(printf, 1, 2), unused)) static int printk(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    int bytes = vfprintf(stderr, format[0] == KERN_SOH[0] && format[1] ? format + 2 : format, arguments);
    va_end(arguments);
    return bytes;
}

#ifndef pr_fmt
#define pr_fmt(format) format
#endif

#define pr_emerg(format, ...) printk(KERN_EMERG pr_fmt(format), ##__VA_ARGS__)
#define pr_crit(format, ...) printk(KERN_CRIT pr_fmt(format), ##__VA_ARGS__)
#define pr_err(format, ...) printk(KERN_ERR pr_fmt(format), ##__VA_ARGS__)
#define pr_warn(format, ...) printk(KERN_WARNING pr_fmt(format), ##__VA_ARGS__)
#define pr_notice(format, ...) printk(KERN_NOTICE pr_fmt(format), ##__VA_ARGS__)
#define pr_info(format, ...) printk(KERN_INFO pr_fmt(format), ##__VA_ARGS__)

#endif
