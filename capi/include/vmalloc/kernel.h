// SPDX-License-Identifier: MIT OR Apache-2.0
//
// The traditional memory interface of a kernel, in a process: for the source of kernel modules.
//
// All of it works on one allocator of the process, which begins with the first call, or with
// vmalloc_kernel_start() of vmalloc.h, which says how much memory there is. vmalloc_kernel_instance()
// is that allocator, for vmalloc_list(), vmalloc_whatis() and vmalloc_check().
//
// A thread is a task. CPUs are what objects by CPU are made for; no thread is on any of them. There is
// one node. A function that returns nothing tells the log what it refuses, and changes nothing then.
#ifndef VMALLOC_KERNEL_H
#define VMALLOC_KERNEL_H

#ifndef __GNUC__
#error "vmalloc/kernel.h wants the extensions of GNU C, as the source of kernel modules does"
#endif

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <vmalloc.h>
#include <vmalloc/abi.h>

#define __vmalloc_always static inline __attribute__((always_inline, unused))

// ---- Pages and nodes

#ifndef PAGE_SHIFT
#define PAGE_SHIFT 12
#endif
#ifndef PAGE_SIZE
#define PAGE_SIZE (1UL << PAGE_SHIFT)
#endif
#ifndef PAGE_MASK
#define PAGE_MASK (~(PAGE_SIZE - 1))
#endif
#define PAGE_ALIGN(at) (((at) + PAGE_SIZE - 1) & PAGE_MASK)
#define offset_in_page(at) ((unsigned long)(at) & ~PAGE_MASK)

#define NUMA_NO_NODE (-1)

// ---- gfp_t: which memory, and how hard to try

typedef unsigned int gfp_t;

#define __GFP_DMA ((gfp_t)0x1)
#define __GFP_HIGHMEM ((gfp_t)0x2)
#define __GFP_DMA32 ((gfp_t)0x4)
#define __GFP_HIGH ((gfp_t)0x20)
#define __GFP_IO ((gfp_t)0x40)
#define __GFP_FS ((gfp_t)0x80)
#define __GFP_ZERO ((gfp_t)0x100)
#define __GFP_DIRECT_RECLAIM ((gfp_t)0x400)
#define __GFP_KSWAPD_RECLAIM ((gfp_t)0x800)
#define __GFP_NOWARN ((gfp_t)0x2000)
#define __GFP_RETRY_MAYFAIL ((gfp_t)0x4000)
#define __GFP_NOFAIL ((gfp_t)0x8000)
#define __GFP_NORETRY ((gfp_t)0x10000)
#define __GFP_COMP ((gfp_t)0x40000)
#define __GFP_THISNODE ((gfp_t)0x200000)
#define __GFP_ACCOUNT ((gfp_t)0x400000)

#define __GFP_RECLAIM (__GFP_DIRECT_RECLAIM | __GFP_KSWAPD_RECLAIM)
#define GFP_KERNEL (__GFP_RECLAIM | __GFP_IO | __GFP_FS)
#define GFP_KERNEL_ACCOUNT (GFP_KERNEL | __GFP_ACCOUNT)
#define GFP_NOFS (__GFP_RECLAIM | __GFP_IO)
#define GFP_NOIO __GFP_RECLAIM
#define GFP_ATOMIC (__GFP_HIGH | __GFP_KSWAPD_RECLAIM)
#define GFP_NOWAIT __GFP_KSWAPD_RECLAIM
#define GFP_DMA __GFP_DMA
#define GFP_DMA32 __GFP_DMA32

// ---- Flags of areas, and protections

#define VM_ALLOC 0x2UL
#define VM_MAP 0x4UL
#define VM_USERMAP 0x8UL
#define VM_MAP_PUT_PAGES 0x200UL
#define VM_ALLOW_HUGE_VMAP 0x400UL

typedef struct {
    unsigned long pgprot;
} pgprot_t;

#define PAGE_KERNEL ((pgprot_t){ 0 })
#define PAGE_KERNEL_RO ((pgprot_t){ 1 })

// ---- struct page: one for each page of memory, at the index of its frame

struct page {
    unsigned long flags;
    struct {
        void *next, *prev;
    } lru;
    void *mapping;
    unsigned long index;
    unsigned long private;
    unsigned long reserved[2];
};

_Static_assert(sizeof(struct page) == 64, "the library has 64 bytes for each");

#define page_to_pfn(page) ((unsigned long)((page) - vmalloc_kernel_mem_map()))
#define pfn_to_page(pfn) (vmalloc_kernel_mem_map() + (pfn))
#define page_private(page) ((page)->private)
#define set_page_private(page, value) ((page)->private = (value))

__vmalloc_always struct page *alloc_pages_node(int node, gfp_t gfp, unsigned int order)
{
    return order ? NULL : vmalloc_kernel_alloc_page(gfp, node);
}

__vmalloc_always struct page *alloc_page(gfp_t gfp)
{
    return vmalloc_kernel_alloc_page(gfp, NUMA_NO_NODE);
}

__vmalloc_always void __free_page(struct page *page)
{
    vmalloc_kernel_free_page(page);
}

// Fills the places of the array that are NULL. Returns how many have a page, from the first on.
__vmalloc_always unsigned long alloc_pages_bulk(gfp_t gfp, unsigned long count, struct page **pages)
{
    return vmalloc_kernel_alloc_pages_bulk(gfp, count, pages);
}

#define alloc_pages_bulk_array alloc_pages_bulk

__vmalloc_always void *page_address(const struct page *page)
{
    return vmalloc_kernel_page_address(page);
}

__vmalloc_always struct page *virt_to_page(const void *at)
{
    return vmalloc_kernel_virt_to_page(at);
}

__vmalloc_always unsigned long __get_free_pages(gfp_t gfp, unsigned int order)
{
    return (unsigned long)vmalloc_kernel_get_free_pages(gfp, order);
}

__vmalloc_always unsigned long __get_free_page(gfp_t gfp)
{
    return __get_free_pages(gfp, 0);
}

__vmalloc_always unsigned long get_zeroed_page(gfp_t gfp)
{
    return __get_free_pages(gfp | __GFP_ZERO, 0);
}

__vmalloc_always void free_pages(unsigned long at, unsigned int order)
{
    if (at)
        vmalloc_kernel_free_pages((const void *)at, order);
}

__vmalloc_always void free_page(unsigned long at)
{
    free_pages(at, 0);
}

// ---- Areas

#define __vmalloc_area(size, align, gfp, node, flags) \
    vmalloc_kernel_area(size, align, gfp, node, flags, VMALLOC_HERE)

__vmalloc_always void *vmalloc(unsigned long size)
{
    return __vmalloc_area(size, 1, GFP_KERNEL, NUMA_NO_NODE, 0);
}

__vmalloc_always void *vzalloc(unsigned long size)
{
    return __vmalloc_area(size, 1, GFP_KERNEL | __GFP_ZERO, NUMA_NO_NODE, 0);
}

__vmalloc_always void *vmalloc_node(unsigned long size, int node)
{
    return __vmalloc_area(size, 1, GFP_KERNEL, node, 0);
}

__vmalloc_always void *vzalloc_node(unsigned long size, int node)
{
    return __vmalloc_area(size, 1, GFP_KERNEL | __GFP_ZERO, node, 0);
}

__vmalloc_always void *vmalloc_user(unsigned long size)
{
    return __vmalloc_area(size, 1, GFP_KERNEL | __GFP_ZERO, NUMA_NO_NODE, VM_USERMAP);
}

__vmalloc_always void *vmalloc_32(unsigned long size)
{
    return __vmalloc_area(size, 1, GFP_KERNEL | GFP_DMA32, NUMA_NO_NODE, 0);
}

__vmalloc_always void *vmalloc_huge_node(unsigned long size, gfp_t gfp, int node)
{
    return __vmalloc_area(size, 1, gfp, node, VM_ALLOW_HUGE_VMAP);
}

__vmalloc_always void *vmalloc_huge(unsigned long size, gfp_t gfp)
{
    return __vmalloc_area(size, 1, gfp, NUMA_NO_NODE, VM_ALLOW_HUGE_VMAP);
}

__vmalloc_always void *__vmalloc(unsigned long size, gfp_t gfp)
{
    return __vmalloc_area(size, 1, gfp, NUMA_NO_NODE, 0);
}

// A caller that is NULL is whoever makes this call.
__vmalloc_always void *__vmalloc_node(unsigned long size, unsigned long align, gfp_t gfp, int node, const void *caller)
{
    return vmalloc_kernel_area(size, align, gfp, node, 0, caller ? caller : VMALLOC_HERE);
}

__vmalloc_always void vfree(const void *at)
{
    vmalloc_kernel_vfree(at, VMALLOC_HERE);
}

__vmalloc_always void vfree_atomic(const void *at)
{
    vmalloc_kernel_vfree(at, VMALLOC_HERE);
}

__vmalloc_always void *vrealloc(const void *at, size_t size, gfp_t gfp)
{
    return vmalloc_kernel_vrealloc(at, size, gfp);
}

__vmalloc_always bool is_vmalloc_addr(const void *at)
{
    return vmalloc_kernel_is_vmalloc_addr(at);
}

__vmalloc_always struct page *vmalloc_to_page(const void *at)
{
    return vmalloc_kernel_to_page(at);
}

__vmalloc_always unsigned long vmalloc_to_pfn(const void *at)
{
    return page_to_pfn(vmalloc_to_page(at));
}

__vmalloc_always void *vmap(struct page **pages, unsigned int count, unsigned long flags, pgprot_t prot)
{
    return vmalloc_kernel_vmap(pages, count, flags, prot.pgprot);
}

__vmalloc_always void vunmap(const void *at)
{
    vmalloc_kernel_vunmap(at);
}

__vmalloc_always void *vm_map_ram(struct page **pages, unsigned int count, int node)
{
    return vmalloc_kernel_map_ram(pages, count, node);
}

__vmalloc_always void vm_unmap_ram(const void *at, unsigned int count)
{
    vmalloc_kernel_unmap_ram(at, count);
}

__vmalloc_always void vm_unmap_aliases(void)
{
    vmalloc_kernel_unmap_aliases();
}

// ---- Objects, and blocks that may be objects or areas

// count * size; what overflows is more than anybody has.
__vmalloc_always size_t __vmalloc_product(size_t count, size_t size)
{
    size_t bytes;
    return __builtin_mul_overflow(count, size, &bytes) ? SIZE_MAX : bytes;
}

__vmalloc_always void *vmalloc_array(size_t count, size_t size)
{
    return vmalloc(__vmalloc_product(count, size));
}

__vmalloc_always void *vcalloc(size_t count, size_t size)
{
    return vzalloc(__vmalloc_product(count, size));
}

__vmalloc_always void *kmalloc_node(size_t size, gfp_t gfp, int node)
{
    return vmalloc_kernel_kmalloc(size, gfp, node);
}

__vmalloc_always void *kmalloc(size_t size, gfp_t gfp)
{
    return vmalloc_kernel_kmalloc(size, gfp, NUMA_NO_NODE);
}

__vmalloc_always void *kzalloc(size_t size, gfp_t gfp)
{
    return kmalloc(size, gfp | __GFP_ZERO);
}

__vmalloc_always void *kmalloc_array(size_t count, size_t size, gfp_t gfp)
{
    return kmalloc(__vmalloc_product(count, size), gfp);
}

__vmalloc_always void *kcalloc(size_t count, size_t size, gfp_t gfp)
{
    return kmalloc_array(count, size, gfp | __GFP_ZERO);
}

__vmalloc_always void *krealloc(const void *at, size_t size, gfp_t gfp)
{
    return vmalloc_kernel_krealloc(at, size, gfp);
}

__vmalloc_always size_t ksize(const void *at)
{
    return vmalloc_kernel_ksize(at);
}

__vmalloc_always void kfree(const void *at)
{
    vmalloc_kernel_kfree(at);
}

__vmalloc_always void *kvmalloc_node(size_t size, gfp_t gfp, int node)
{
    return vmalloc_kernel_kvmalloc(size, gfp, node);
}

__vmalloc_always void *kvmalloc(size_t size, gfp_t gfp)
{
    return vmalloc_kernel_kvmalloc(size, gfp, NUMA_NO_NODE);
}

__vmalloc_always void *kvzalloc(size_t size, gfp_t gfp)
{
    return kvmalloc(size, gfp | __GFP_ZERO);
}

__vmalloc_always void *kvmalloc_array(size_t count, size_t size, gfp_t gfp)
{
    return kvmalloc(__vmalloc_product(count, size), gfp);
}

__vmalloc_always void *kvcalloc(size_t count, size_t size, gfp_t gfp)
{
    return kvmalloc_array(count, size, gfp | __GFP_ZERO);
}

__vmalloc_always void *kvrealloc(const void *at, size_t size, gfp_t gfp)
{
    return vmalloc_kernel_kvrealloc(at, size, gfp);
}

// The address tells whose it is.
__vmalloc_always void kvfree(const void *at)
{
    if (is_vmalloc_addr(at))
        vfree(at);
    else
        kfree(at);
}

// ---- RCU: a thread between lock and unlock keeps what it reads from being freed

struct rcu_head {
    void *words[2];
};

#define rcu_read_lock() vmalloc_kernel_rcu_read_lock()
#define rcu_read_unlock() vmalloc_kernel_rcu_read_unlock()
#define synchronize_rcu() vmalloc_kernel_synchronize_rcu()
#define rcu_dereference(pointer) __atomic_load_n(&(pointer), __ATOMIC_ACQUIRE)
#define rcu_assign_pointer(pointer, value) __atomic_store_n(&(pointer), value, __ATOMIC_RELEASE)

// kvfree_rcu(block, member): the member is a struct rcu_head. kvfree_rcu_mightsleep(block) needs none.
#define __vmalloc_free_rcu_2(block, head)                                                          \
    do {                                                                                           \
        __typeof__(block) __block = (block);                                                       \
        if (__block)                                                                               \
            vmalloc_kernel_kvfree_rcu(__block, &__block->head);                                    \
    } while (0)
#define kvfree_rcu_mightsleep(block) vmalloc_kernel_kvfree_rcu(block, NULL)
#define __vmalloc_free_rcu_1(block) kvfree_rcu_mightsleep(block)
#define __vmalloc_free_rcu(_1, _2, name, ...) name
#define kvfree_rcu(...) \
    __vmalloc_free_rcu(__VA_ARGS__, __vmalloc_free_rcu_2, __vmalloc_free_rcu_1, 0)(__VA_ARGS__)
#define kfree_rcu(...) kvfree_rcu(__VA_ARGS__)
#define kfree_rcu_mightsleep(block) kvfree_rcu_mightsleep(block)
#define kvfree_rcu_barrier() vmalloc_kernel_kvfree_rcu_barrier()
#define rcu_barrier() kvfree_rcu_barrier()

// ---- Objects by CPU. The pointer is what CPU 0 has.

#define __percpu

__vmalloc_always void __percpu *__alloc_percpu_gfp(size_t size, size_t align, gfp_t gfp)
{
    return vmalloc_kernel_alloc_percpu(size, align, gfp);
}

__vmalloc_always void __percpu *__alloc_percpu(size_t size, size_t align)
{
    return vmalloc_kernel_alloc_percpu(size, align, GFP_KERNEL);
}

__vmalloc_always void free_percpu(void __percpu *at)
{
    vmalloc_kernel_free_percpu(at);
}

#define alloc_percpu_gfp(type, gfp) ((type __percpu *)__alloc_percpu_gfp(sizeof(type), __alignof__(type), gfp))
#define alloc_percpu(type) ((type __percpu *)__alloc_percpu(sizeof(type), __alignof__(type)))
#define per_cpu_ptr(object, cpu) \
    ((__typeof__(object))((char *)(object) + (size_t)(cpu) * vmalloc_kernel_percpu_stride()))

#define nr_cpu_ids vmalloc_kernel_cpus()
#define num_possible_cpus() nr_cpu_ids
#define num_online_cpus() nr_cpu_ids
#define for_each_possible_cpu(cpu) for ((cpu) = 0; (unsigned int)(cpu) < nr_cpu_ids; (cpu)++)
#define for_each_online_cpu(cpu) for_each_possible_cpu(cpu)

// ---- Scopes: what a thread's requests may do, whatever their flags say

#define __vmalloc_scope(name, bits)                                                                \
    __vmalloc_always unsigned int memalloc_##name##_save(void)                                     \
    {                                                                                              \
        return vmalloc_kernel_scope_enter(bits);                                                   \
    }                                                                                              \
    __vmalloc_always void memalloc_##name##_restore(unsigned int flags)                            \
    {                                                                                              \
        vmalloc_kernel_scope_leave(bits, flags);                                                   \
    }

__vmalloc_scope(nofs, 1)
__vmalloc_scope(noio, 2)
__vmalloc_scope(noreclaim, 4)

__vmalloc_always gfp_t current_gfp_context(gfp_t gfp)
{
    return vmalloc_kernel_gfp_context(gfp);
}

#endif
