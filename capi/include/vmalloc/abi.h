// SPDX-License-Identifier: MIT OR Apache-2.0
//
// What vmalloc/kernel.h calls: include that. Written by cbindgen from the sources, whose promises
// (CP1 and following) stand in vmalloc.h.


#ifndef VMALLOC_ABI_H
#define VMALLOC_ABI_H

#include <stddef.h>

// What `kernel.h` calls `struct page`, which says what is in its words. All of it is the page's
// holder's to use.
struct page;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// An area of `size` bytes for `by` (`vmalloc` and all its siblings). `vm_flags` is 0, or what the name of the
// function says: `VM_USERMAP`, `VM_ALLOW_HUGE_VMAP`.
void *vmalloc_kernel_area(size_t size,
                          size_t align,
                          unsigned int flags,
                          int on,
                          unsigned int vm_flags,
                          const void *by);

// Frees an area, on behalf of `by` (`vfree`). Null is nothing; the log is told what is refused.
//
// # Safety
// CP3.
void vmalloc_kernel_vfree(const void *at, const void *by);

// The area with `size` bytes, here or elsewhere (`vrealloc`). Null where it was refused, and for 0 bytes.
//
// # Safety
// CP3, for the address that it was given, where another one is returned.
void *vmalloc_kernel_vrealloc(const void *at,
                              size_t size,
                              unsigned int flags);

// Whether areas are carved from there (`is_vmalloc_addr`): 1 or 0.
int vmalloc_kernel_is_vmalloc_addr(const void *at);

// No stale translation of any page survives this (`vm_unmap_aliases`).
void vmalloc_kernel_unmap_aliases(void);

// Maps `count` pages side by side (`vmap`); `prot` is 0 (`PAGE_KERNEL`) or 1 (`PAGE_KERNEL_RO`).
//
// # Safety
// CP2, CP4.
void *vmalloc_kernel_vmap(struct page *const *pages,
                          unsigned int count,
                          unsigned long vm_flags,
                          unsigned long prot);

// Unmaps what `vmap` mapped (`vunmap`). Null is nothing; the log is told what is refused.
//
// # Safety
// CP3.
void vmalloc_kernel_vunmap(const void *at);

// Maps `count` pages side by side for a short time (`vm_map_ram`).
//
// # Safety
// CP2, CP4.
void *vmalloc_kernel_map_ram(struct page *const *pages, unsigned int count, int on);

// Unmaps what `vm_map_ram` mapped, `count` pages as then (`vm_unmap_ram`). The log is told what is refused.
//
// # Safety
// CP3.
void vmalloc_kernel_unmap_ram(const void *at,
                              unsigned int count);

// The page behind an address of an area (`vmalloc_to_page`); null where none is.
struct page *vmalloc_kernel_to_page(const void *at);

// An object of `size` bytes (`kmalloc_node`).
void *vmalloc_kernel_kmalloc(size_t size, unsigned int flags, int on);

// The object with `size` bytes, here or elsewhere (`krealloc`).
//
// # Safety
// CP3, for the address that it was given, where another one is returned.
void *vmalloc_kernel_krealloc(const void *at, size_t size, unsigned int flags);

// Frees an object (`kfree`). Null is nothing; the log is told what is refused.
//
// # Safety
// CP3.
void vmalloc_kernel_kfree(const void *at);

// The bytes that an object really has (`ksize`).
size_t vmalloc_kernel_ksize(const void *at);

// An object of `size` bytes, or an area (`kvmalloc_node`).
void *vmalloc_kernel_kvmalloc(size_t size, unsigned int flags, int on);

// The block with `size` bytes, here or elsewhere (`kvrealloc`).
//
// # Safety
// CP3, for the address that it was given, where another one is returned.
void *vmalloc_kernel_kvrealloc(const void *at, size_t size, unsigned int flags);

// Frees an object or an area when all threads that read now have ended that (`kvfree_rcu`). `head` lies in
// it; null = it has none, and the call may wait (`kvfree_rcu_mightsleep`). The log is told what is refused.
//
// # Safety
// CP3, but for threads that read now.
void vmalloc_kernel_kvfree_rcu(const void *at,
                               const void *head);

// Waits until all is freed that was given to `kvfree_rcu` before (`kvfree_rcu_barrier`).
void vmalloc_kernel_kvfree_rcu_barrier(void);

// The structure of the first frame of RAM (`mem_map`): those of the others follow it.
struct page *vmalloc_kernel_mem_map(void);

// A page (`alloc_pages_node`, of order 0); null where there is none.
struct page *vmalloc_kernel_alloc_page(unsigned int flags, int on);

// Puts a page into each of the `count` places that is null (`alloc_pages_bulk`). Returns how many places
// have one, from the first on.
//
// # Safety
// CP2.
unsigned long vmalloc_kernel_alloc_pages_bulk(unsigned int flags,
                                              unsigned long count,
                                              struct page **pages);

// Gives a page up (`__free_page`). The log is told what is refused.
//
// # Safety
// CP4.
void vmalloc_kernel_free_page(struct page *page);

// Where the bytes of a page are (`page_address`); null where it is no page.
void *vmalloc_kernel_page_address(const struct page *page);

// The page whose bytes are there (`virt_to_page`): of memory by `page_address` or of the slab; null where
// none are.
struct page *vmalloc_kernel_virt_to_page(const void *at);

// `1 << order` pages whose bytes are adjacent (`__get_free_pages`); null where there are none.
void *vmalloc_kernel_get_free_pages(unsigned int flags, unsigned int order);

// Frees them (`free_pages`). The log is told what is refused.
//
// # Safety
// CP3.
void vmalloc_kernel_free_pages(const void *at, unsigned int order);

// `size` bytes for each CPU, cleared (`__alloc_percpu_gfp`); null where there are none.
void *vmalloc_kernel_alloc_percpu(size_t size, size_t align, unsigned int flags);

// Frees an object (`free_percpu`). Null is nothing; the log is told what is refused.
//
// # Safety
// CP3.
void vmalloc_kernel_free_percpu(const void *at);

// The bytes between the addresses of an object for two CPUs that follow each other.
size_t vmalloc_kernel_percpu_stride(void);

// CPUs (`nr_cpu_ids`): those that objects by CPU are made for.
unsigned int vmalloc_kernel_cpus(void);

// Areas and objects by CPU that callers have and nobody has freed. What the subsystem reserves for objects by
// CPU does not count.
size_t vmalloc_kernel_left(void);

// Puts the thread into a scope as well (`memalloc_nofs_save` and its siblings): 1 NOFS, 2 NOIO, 4 NORECLAIM.
// Returns which of these it was in already.
unsigned int vmalloc_kernel_scope_enter(unsigned int scope);

// Takes the thread out of a scope, but for what it `was` in before.
void vmalloc_kernel_scope_leave(unsigned int scope, unsigned int was);

// The flags that a request with these has in the thread's scope (`current_gfp_context`).
unsigned int vmalloc_kernel_gfp_context(unsigned int flags);

// The thread reads until it has called `vmalloc_kernel_rcu_read_unlock` as often as this.
void vmalloc_kernel_rcu_read_lock(void);

// Ends what `vmalloc_kernel_rcu_read_lock` began. One too many is nothing.
void vmalloc_kernel_rcu_read_unlock(void);

// Waits until all threads that read now have ended that. Not for one that reads itself.
void vmalloc_kernel_synchronize_rcu(void);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* VMALLOC_ABI_H */
