// SPDX-License-Identifier: MIT OR Apache-2.0
// A module as a program: main() is here.
//
// The arguments are the module's parameters, `name=value`. What module_init() names runs, and, where it
// returned 0, what module_exit() names. Then the allocator is checked. The program ends with 0 if init
// returned 0, no rule is broken, and neither an area nor an object by CPU is left; else with 1. Nobody
// counts objects of kmalloc().
#ifndef VMALLOC_LINUX_MODULE_H
#define VMALLOC_LINUX_MODULE_H

#if __has_include_next(<linux/module.h>)
#include_next <linux/module.h>
#endif
#include <linux/compiler.h>
#include <linux/kernel.h>
#include <linux/printk.h>
#include <linux/types.h>
#include <stdlib.h>
#include <string.h>
#include <vmalloc/kernel.h>

#define __init
#define __exit
#define __initdata
#define THIS_MODULE NULL
#define KBUILD_MODNAME "module"
#define MODULE_LICENSE(text) struct vmalloc_module_says
#define MODULE_AUTHOR(text) struct vmalloc_module_says
#define MODULE_DESCRIPTION(text) struct vmalloc_module_says
#define MODULE_VERSION(text) struct vmalloc_module_says
#define MODULE_PARM_DESC(name, text) struct vmalloc_module_says
#define EXPORT_SYMBOL(name) struct vmalloc_module_says
#define EXPORT_SYMBOL_GPL(name) struct vmalloc_module_says

// A parameter: where it is, and how its value is read. Returns whether the text is one.
struct vmalloc_param {
    const char *name;
    void *at;
    bool (*read)(const char *text, void *at);
    struct vmalloc_param *next;
};

__attribute__((weak)) struct vmalloc_param *vmalloc_params;
__attribute__((weak)) void (*vmalloc_module_exit)(void);

#define __vmalloc_read_number(type, convert)                                                       \
    __attribute__((unused)) static bool __vmalloc_read_##type(const char *text, void *at)          \
    {                                                                                              \
        char *end;                                                                                 \
        *(type *)at = (type)convert(text, &end, 0);                                                \
        return end != text && !*end;                                                               \
    }

typedef unsigned int uint;
typedef unsigned long ulong;
__vmalloc_read_number(int, strtol)
__vmalloc_read_number(uint, strtoul)
__vmalloc_read_number(long, strtol)
__vmalloc_read_number(ulong, strtoul)

__attribute__((unused)) static bool __vmalloc_read_bool(const char *text, void *at)
{
    *(bool *)at = strchr("1yY", text[0]) != NULL;
    return text[0] && !text[1] && strchr("01yYnN", text[0]);
}

__attribute__((unused)) static bool __vmalloc_read_charp(const char *text, void *at)
{
    *(const char **)at = text;
    return true;
}

#define module_param(name, type, mode) __vmalloc_param(name, name, __vmalloc_read_##type)
#define module_param_named(name, place, type, mode) __vmalloc_param(name, place, __vmalloc_read_##type)
// What `bool` is where a macro of the module's has handed it on.
#define __vmalloc_read__Bool __vmalloc_read_bool
#define __vmalloc_param(name, place, reads)                                                        \
    __attribute__((constructor)) static void __vmalloc_param_##name(void)                          \
    {                                                                                              \
        static struct vmalloc_param param = { #name, &place, reads, NULL };                        \
        param.next = vmalloc_params;                                                               \
        vmalloc_params = &param;                                                                   \
    }                                                                                              \
    struct vmalloc_module_says

#define module_exit(end)                                                                           \
    __attribute__((constructor)) static void __vmalloc_exit(void)                                  \
    {                                                                                              \
        vmalloc_module_exit = end;                                                                 \
    }                                                                                              \
    struct vmalloc_module_says

#define module_init(begin)                                                                         \
    int main(int count, char **arguments)                                                          \
    {                                                                                              \
        return __vmalloc_module_main(begin, count, arguments);                                     \
    }                                                                                              \
    struct vmalloc_module_says

__attribute__((unused)) static bool __vmalloc_set_param(const char *argument)
{
    size_t name = strcspn(argument, "=");
    for (struct vmalloc_param *param = vmalloc_params; param; param = param->next)
        if (argument[name] && strlen(param->name) == name && !strncmp(param->name, argument, name))
            return param->read(argument + name + 1, param->at);
    return false;
}

// What is left when the module has ended: 0 = nothing, and no rule is broken.
__attribute__((unused)) static int __vmalloc_module_left(void)
{
    struct vmalloc_instance *vm = vmalloc_kernel_instance();
    kvfree_rcu_barrier();
    if (vmalloc_check(vm)) {
        fprintf(stderr, "module: %s\n", vmalloc_last_message());
        return 1;
    }
    size_t left = vmalloc_kernel_left();
    if (left)
        fprintf(stderr, "module: areas and objects by CPU that are left: %zu\n", left);
    return left > 0;
}

__attribute__((unused)) static int __vmalloc_module_main(int (*begin)(void), int count, char **arguments)
{
    for (int n = 1; n < count; n++)
        if (!__vmalloc_set_param(arguments[n])) {
            fprintf(stderr, "module: no parameter, or not its type: %s\n", arguments[n]);
            return 1;
        }
    int error = begin();
    if (error)
        fprintf(stderr, "module: init returned %d\n", error);
    else if (vmalloc_module_exit)
        vmalloc_module_exit();
    return __vmalloc_module_left() || error;
}

#endif
