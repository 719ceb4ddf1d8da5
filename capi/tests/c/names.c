// Each name of vmalloc/kernel.h.
#define _GNU_SOURCE
#include "check.h"
#include "fault.h"
#include <linux/mm.h>
#include <linux/percpu.h>
#include <linux/rcupdate.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>
#include <linux/vmalloc.h>
#include <pthread.h>
#include <unistd.h>

#define MIB (1024UL * 1024)
#define CPUS 3

// What the log was told, since somebody asked last.
static char log_text[4000];

static void keep_line(void *arg, const char *line)
{
    (void)arg;
    size_t used = strlen(log_text);
    snprintf(log_text + used, sizeof log_text - used, "%s\n", line);
}

static bool told(const char *text)
{
    bool was = strstr(log_text, text) != NULL;
    log_text[0] = 0;
    return was;
}

static bool nothing_told(void)
{
    return log_text[0] == 0;
}

static struct vmalloc_what whatis(const void *at)
{
    struct vmalloc_what what;
    CHECK(vmalloc_whatis(vmalloc_kernel_instance(), at, &what) == 0);
    return what;
}

static bool lives(const void *at)
{
    return whatis(at).answer == VMALLOC_ANSWER_INSIDE;
}

// Frames that are no area's and nobody's.
static size_t unused(void)
{
    struct vmalloc_sums sums;
    vmalloc_purge(vmalloc_kernel_instance());
    CHECK(vmalloc_stats(vmalloc_kernel_instance(), &sums) == 0);
    return sums.free_frames + sums.table_frames + sums.bookkeeping_frames;
}

static bool is_clear(const char *at, size_t bytes)
{
    while (bytes > 0 && at[bytes - 1] == 0)
        bytes--;
    return bytes == 0;
}

// Memory that was written to comes next.
static void dirty(size_t bytes)
{
    char *at[8];
    for (int n = 0; n < 8; n++) {
        CHECK(at[n] = vmalloc(bytes));
        memset(at[n], 'x', bytes);
    }
    for (int n = 0; n < 8; n++)
        vfree(at[n]);
    vmalloc_purge(vmalloc_kernel_instance());
}

static void the_subsystem_begins_once_with_the_memory_that_is_asked_for(void)
{
    struct vmalloc_options options = { .memory = 64 * MIB, .cpus = CPUS, .policy = VMALLOC_POLICY_UNMAP, .log = keep_line };
    CHECK(vmalloc_kernel_start(&options) == 0);
    CHECK(vmalloc_kernel_start(&options) == VMALLOC_ERROR_BUSY && vmalloc_kernel_instance());
    CHECK(nr_cpu_ids == CPUS && num_online_cpus() == CPUS && num_possible_cpus() == CPUS);
    CHECK(PAGE_SIZE == 4096 && PAGE_ALIGN(4097) == 8192 && offset_in_page(4097) == 1 && NUMA_NO_NODE == -1);
}

__attribute__((noinline)) void *the_caller_of_vmalloc(void)
{
    return vmalloc(2 * PAGE_SIZE + 1);
}

__attribute__((noinline)) void the_caller_of_vfree(void *area)
{
    vfree(area);
}

static void vmalloc_makes_an_area_for_its_caller_and_vfree_frees_it(void)
{
    char *area = the_caller_of_vmalloc(), text[80];
    CHECK(area && is_vmalloc_addr(area) && !is_vmalloc_addr(text) && !offset_in_page(area));
    CHECK(whatis(area).area.size == 2 * PAGE_SIZE + 1 && whatis(area).area.pages == 3);
    vmalloc_symbol(whatis(area).area.by, text, sizeof text);
    CHECK(!strncmp(text, "the_caller_of_vmalloc+0x", 24));
    area[3 * PAGE_SIZE - 1] = 1;
    CHECK(faults(area + 3 * PAGE_SIZE));
    log_text[0] = 0;
    vfree(area + 8);
    CHECK(told("Trying to vfree() bad address") && lives(area));
    the_caller_of_vfree(area);
    CHECK(!lives(area) && nothing_told());
    vmalloc_symbol(whatis(area).area.freed_by, text, sizeof text);
    CHECK(!strncmp(text, "the_caller_of_vfree+0x", 22));
    vfree(area);
    CHECK(told("Trying to vfree() nonexistent vm area"));
    vfree(NULL);
    CHECK(nothing_told());
    area = vmalloc(1);
    vfree_atomic(area);
    CHECK(!lives(area));
    CHECK(!vmalloc(128 * MIB) && told("exceeds total pages"));
    CHECK(!vmalloc(0) && vmalloc_last_error() == VMALLOC_ERROR_INVAL);
}

static void the_cleared_ones_are_clear(void)
{
    size_t bytes = 3 * PAGE_SIZE;
    char *(made[7]);
    dirty(bytes);
    made[0] = vzalloc(bytes);
    made[1] = vzalloc_node(bytes, 0);
    made[2] = vmalloc_user(bytes);
    made[3] = vcalloc(3, PAGE_SIZE);
    made[4] = __vmalloc(bytes, GFP_KERNEL | __GFP_ZERO);
    made[5] = vmalloc_huge(bytes, GFP_KERNEL | __GFP_ZERO);
    made[6] = vmalloc_huge_node(bytes, GFP_KERNEL | __GFP_ZERO, 0);
    for (int n = 0; n < 7; n++)
        CHECK(made[n] && is_clear(made[n], bytes));
    for (int n = 0; n < 7; n++)
        vfree(made[n]);
}

static void a_node_that_there_is_not_is_refused(void)
{
    void *made[4] = { vmalloc_node(1, 0), vmalloc_node(1, NUMA_NO_NODE), vzalloc_node(1, NUMA_NO_NODE), vmalloc_32(1) };
    for (int n = 0; n < 4; n++) {
        CHECK(lives(made[n]));
        vfree(made[n]);
    }
    CHECK(!vmalloc_node(1, 1) && !vzalloc_node(1, 300) && !vmalloc_huge_node(1, GFP_KERNEL, 1));
    CHECK(!__vmalloc_node(1, 1, GFP_KERNEL, 1, NULL) && !kmalloc_node(1, GFP_KERNEL, 1) && !kvmalloc_node(1, GFP_KERNEL, 1));
}

static void flags_say_whether_the_log_is_told(void)
{
    log_text[0] = 0;
    CHECK(!__vmalloc(128 * MIB, GFP_KERNEL | __GFP_NOWARN) && nothing_told());
    CHECK(!__vmalloc(1, 0x80000000) && vmalloc_last_error() == VMALLOC_ERROR_INVAL);
    void *quick = __vmalloc(1, GFP_ATOMIC);
    CHECK(quick);
    vfree(quick);
}

static void vmalloc_node_with_two_lines_aligns_and_notes_its_caller(void)
{
    const void *caller = (const void *)the_caller_of_vmalloc;
    char *area = __vmalloc_node(1, 1 * MIB, GFP_KERNEL, NUMA_NO_NODE, caller);
    CHECK(area && (uintptr_t)area % MIB == 0 && whatis(area).area.by == caller);
    vfree(area);
    CHECK(!__vmalloc_node(1, 3 * PAGE_SIZE, GFP_KERNEL, NUMA_NO_NODE, caller));
}

static void vrealloc_keeps_what_is_written(void)
{
    char *area = vrealloc(NULL, PAGE_SIZE, GFP_KERNEL);
    CHECK(lives(area));
    memset(area, 'a', PAGE_SIZE);
    char *grown = vrealloc(area, 100 * PAGE_SIZE, GFP_KERNEL | __GFP_ZERO);
    CHECK(lives(grown) && grown[0] == 'a' && grown[PAGE_SIZE - 1] == 'a' && is_clear(grown + PAGE_SIZE, 99 * PAGE_SIZE));
    size_t before = unused();
    char *shrunk = vrealloc(grown, 10 * PAGE_SIZE, GFP_KERNEL);
    CHECK(shrunk == grown && unused() == before + 90 && shrunk[0] == 'a');
    log_text[0] = 0;
    CHECK(!vrealloc(shrunk + PAGE_SIZE, 1, GFP_KERNEL) && told("Trying to vrealloc() nonexistent vm area"));
    CHECK(!vrealloc(shrunk, 0, GFP_KERNEL) && !lives(shrunk));
}

static void a_page_has_bytes_a_structure_and_a_number(void)
{
    size_t before = unused();
    struct page *page = alloc_page(GFP_KERNEL | __GFP_ZERO), *other = alloc_pages_node(0, GFP_KERNEL, 0);
    CHECK(page && other && page != other && unused() == before - 2);
    CHECK(is_clear(page_address(page), PAGE_SIZE) && page_address(page) != page_address(other));
    CHECK(pfn_to_page(page_to_pfn(page)) == page && virt_to_page((char *)page_address(page) + 77) == page);
    set_page_private(page, 42);
    page->index = 43;
    CHECK(page_private(page) == 42 && page_private(other) != 42);
    __free_page(page);
    __free_page(other);
    CHECK(unused() == before && nothing_told());
    __free_page(page + (1 << 20));
    CHECK(told("no page has its structure there"));
    CHECK(!page_address((struct page *)((char *)page + 1)) && !virt_to_page(&before) && !alloc_pages_node(1, GFP_KERNEL, 0));

    char *one = (char *)get_zeroed_page(GFP_KERNEL), *four = (char *)__get_free_pages(GFP_KERNEL, 2);
    unsigned long plain = __get_free_page(GFP_KERNEL);
    CHECK(one && four && plain && is_clear(one, PAGE_SIZE));
    CHECK(page_to_pfn(virt_to_page(four + 3 * PAGE_SIZE)) == page_to_pfn(virt_to_page(four)) + 3);
    memset(four, 'x', 4 * PAGE_SIZE);
    log_text[0] = 0;
    free_page((unsigned long)one);
    free_page(plain);
    free_pages((unsigned long)four, 2);
    free_page(0);
    CHECK(nothing_told());
    free_page((unsigned long)one);
    CHECK(told("free_pages"));
    free_pages((unsigned long)four, 2);
    CHECK(told("free_pages"));
}

static void a_bulk_fills_the_places_that_are_empty(void)
{
    struct page *pages[8] = { [3] = alloc_page(GFP_KERNEL) }, *third = pages[3];
    size_t before = unused();
    CHECK(alloc_pages_bulk(GFP_KERNEL, 8, pages) == 8 && pages[3] == third && unused() == before - 7);
    for (int n = 0; n < 8; n++) {
        for (int m = 0; m < n; m++)
            CHECK(pages[n] && pages[n] != pages[m]);
        __free_page(pages[n]);
    }
    static struct page *all[64 * 256];
    unsigned long had = alloc_pages_bulk_array(GFP_KERNEL, 64 * 256, all);
    CHECK(had > 0 && had < 64 * 256 && all[had - 1] && !all[had]);
    for (unsigned long n = 0; n < had; n++)
        __free_page(all[n]);
    CHECK(unused() == before + 1);
}

static void pages_are_mapped_side_by_side(void)
{
    struct page *pages[3];
    size_t before = unused();
    memset(pages, 0, sizeof pages);
    CHECK(alloc_pages_bulk(GFP_KERNEL, 3, pages) == 3);
    char *ram = vm_map_ram(pages, 3, NUMA_NO_NODE), *map = vmap(pages, 3, VM_MAP, PAGE_KERNEL);
    char *read_only = vmap(pages, 3, VM_MAP, PAGE_KERNEL_RO);
    CHECK(ram && map && read_only);
    ram[2 * PAGE_SIZE + 5] = 'r';
    CHECK(((char *)page_address(pages[2]))[5] == 'r' && map[2 * PAGE_SIZE + 5] == 'r' && read_only[2 * PAGE_SIZE + 5] == 'r');
    CHECK(faults(read_only) && !faults(map));
    CHECK(vmalloc_to_page(map + PAGE_SIZE + 1) == pages[1] && vmalloc_to_pfn(map) == page_to_pfn(pages[0]));
    CHECK(!vmalloc_to_page(map + 3 * PAGE_SIZE));

    log_text[0] = 0;
    vm_unmap_ram(ram, 2);
    CHECK(told("an area of 3 pages, not 2") && lives(ram));
    vm_unmap_ram(ram, 3);
    CHECK(!lives(ram));
    vfree(map);
    CHECK(told("Trying to vfree() nonexistent vm area") && lives(map));
    vunmap(map);
    vunmap(read_only);
    CHECK(!lives(map) && nothing_told());
    vunmap(map);
    CHECK(told("Trying to vunmap() nonexistent vm area"));

    // Handed over, the pages are freed with the mapping.
    char *owner = vmap(pages, 3, VM_MAP | VM_MAP_PUT_PAGES, PAGE_KERNEL);
    CHECK(owner && unused() == before - 3);
    vfree(owner);
    CHECK(unused() == before);
    pages[1] = NULL;
    CHECK(!vm_map_ram(pages, 3, NUMA_NO_NODE) && !vmap(pages, 3, VM_MAP, PAGE_KERNEL) && !vmap(NULL, 1, VM_MAP, PAGE_KERNEL));
}

static void no_alias_survives_vm_unmap_aliases(void)
{
    struct page *page = alloc_page(GFP_KERNEL);
    char *ram = vm_map_ram(&page, 1, NUMA_NO_NODE);
    CHECK(ram);
    vm_unmap_ram(ram, 1);
    CHECK(!faults(ram));
    vm_unmap_aliases();
    CHECK(faults(ram));
    __free_page(page);
}

static void objects_are_of_the_slab(void)
{
    char *one = kmalloc(100, GFP_KERNEL), *two = kmalloc_node(100, GFP_KERNEL, 0);
    CHECK(one && two && one != two && !is_vmalloc_addr(one) && ksize(one) >= 100);
    memset(one, 'x', 100);
    memset(two, 'x', 100);
    log_text[0] = 0;
    kfree(one + 8);
    CHECK(told("kfree"));
    kfree(one);
    kfree(one);
    CHECK(told("kfree"));
    kfree(NULL);
    CHECK(nothing_told());
    char *zeroed = kzalloc(100, GFP_KERNEL), *counted = kcalloc(10, 10, GFP_KERNEL), *array = kmalloc_array(10, 10, GFP_KERNEL);
    CHECK(zeroed && counted && array && is_clear(zeroed, 100) && is_clear(counted, 100) && ksize(array) >= 100);
    CHECK(!kcalloc(SIZE_MAX / 2, 4, GFP_KERNEL) && !kmalloc_array(SIZE_MAX / 2, 4, GFP_KERNEL) && !kzalloc(SIZE_MAX, GFP_KERNEL));
    CHECK(!vmalloc_array(SIZE_MAX / 2, 4) && !vcalloc(SIZE_MAX / 2, 4));
    char *areas = vmalloc_array(3, PAGE_SIZE);
    CHECK(whatis(areas).area.pages == 3);
    two = krealloc(two, 3000, GFP_KERNEL);
    CHECK(two && two[99] == 'x' && ksize(two) >= 3000);
    kfree(two);
    kfree(zeroed);
    kfree(counted);
    kfree(array);
    vfree(areas);
    CHECK(ksize(two) == 0);
}

static void a_large_block_may_be_an_area(void)
{
    char *small = kvmalloc(100, GFP_KERNEL), *large = kvmalloc(16 * MIB, GFP_KERNEL);
    CHECK(small && large && !is_vmalloc_addr(small) && is_vmalloc_addr(large));
    memset(small, 's', 100);
    small = kvrealloc(small, 8 * MIB, GFP_KERNEL);
    CHECK(small && is_vmalloc_addr(small) && small[99] == 's');
    kvfree(small);
    kvfree(large);
    CHECK(!lives(small) && !lives(large));
    dirty(6 * MIB);
    char *zeroed = kvzalloc(6 * MIB, GFP_KERNEL), *counted = kvcalloc(6, MIB, GFP_KERNEL), *array = kvmalloc_array(6, MIB, GFP_KERNEL);
    CHECK(zeroed && counted && array && is_clear(zeroed, 6 * MIB) && is_clear(counted, 6 * MIB));
    CHECK(!kvmalloc_array(SIZE_MAX / 2, 4, GFP_KERNEL) && !kvcalloc(SIZE_MAX / 2, 4, GFP_KERNEL));
    kvfree(zeroed);
    kvfree(counted);
    kvfree(array);
    char *object = kvmalloc_node(100, GFP_KERNEL, 0);
    CHECK(ksize(object) >= 100);
    kvfree(object);
    CHECK(ksize(object) == 0);
}

struct block {
    long value;
    struct rcu_head rcu;
};

static pthread_barrier_t meeting;
static int readers_are_done;

static void *reader(void *block)
{
    rcu_read_lock();
    rcu_read_lock();
    struct block *seen = rcu_dereference(*(struct block **)block);
    rcu_read_unlock();
    pthread_barrier_wait(&meeting);
    pthread_barrier_wait(&meeting);
    // As long as it reads, whoever waits for it waits.
    usleep(20000);
    CHECK(seen->value == 7);
    __atomic_store_n(&readers_are_done, 1, __ATOMIC_SEQ_CST);
    rcu_read_unlock();
    return NULL;
}

// Gives blocks up while somebody reads one of them.
static void a_block_is_freed_when_its_readers_have_ended(void)
{
    struct block *area = vmalloc(sizeof *area), *object = kmalloc(sizeof *object, GFP_KERNEL), *published;
    void *headless = vmalloc(1), *old_form = vmalloc(1), *small = kmalloc(16, GFP_KERNEL);
    pthread_t thread;
    CHECK(area && object && headless && old_form && small);
    area->value = 7;
    rcu_assign_pointer(published, area);
    pthread_barrier_init(&meeting, NULL, 2);
    pthread_create(&thread, NULL, reader, &published);
    pthread_barrier_wait(&meeting);
    rcu_assign_pointer(published, NULL);
    kvfree_rcu(area, rcu);
    kfree_rcu(object, rcu);
    kvfree_rcu_mightsleep(headless);
    kvfree_rcu(old_form);
    kfree_rcu_mightsleep(small);
    for (int n = 0; n < 20; n++)
        kvfree_rcu(vmalloc(1));
    CHECK(lives(area) && lives(headless) && lives(old_form) && ksize(object) > 0 && ksize(small) > 0 && area->value == 7);
    pthread_barrier_wait(&meeting);
    synchronize_rcu();
    CHECK(__atomic_load_n(&readers_are_done, __ATOMIC_SEQ_CST));
    pthread_join(thread, NULL);
    kvfree_rcu_barrier();
    CHECK(!lives(area) && !lives(headless) && !lives(old_form) && ksize(object) == 0 && ksize(small) == 0);
    kvfree_rcu((struct block *)NULL, rcu);
    log_text[0] = 0;
    kvfree_rcu_mightsleep(area);
    CHECK(told("kvfree_rcu"));
    // A reader that has ended keeps nothing, though its thread goes on.
    rcu_read_lock();
    rcu_read_unlock();
    void *last = vmalloc(1);
    kvfree_rcu_mightsleep(last);
    for (int n = 0; n < 5; n++)
        kvfree_rcu_mightsleep(vmalloc(1));
    CHECK(!lives(last));
    rcu_barrier();
}

static void an_object_by_cpu_has_bytes_of_its_own_for_each_cpu(void)
{
    size_t left = vmalloc_kernel_left();
    int __percpu *counters = alloc_percpu(int), cpu, seen = 0;
    char __percpu *aligned = __alloc_percpu(100, 256), __percpu *atomic = alloc_percpu_gfp(char, GFP_ATOMIC);
    CHECK(counters && aligned && atomic && vmalloc_kernel_left() == left + 3);
    for_each_possible_cpu(cpu) {
        CHECK(*per_cpu_ptr(counters, cpu) == 0 && (uintptr_t)per_cpu_ptr(aligned, cpu) % 256 == 0);
        *per_cpu_ptr(counters, cpu) = cpu + 1;
        memset(per_cpu_ptr(aligned, cpu), 'x', 100);
    }
    for_each_online_cpu(cpu)
        seen += *per_cpu_ptr(counters, cpu);
    CHECK(cpu == CPUS && seen == 1 + 2 + 3);
    log_text[0] = 0;
    CHECK(!__alloc_percpu(1, 2 * PAGE_SIZE) && told("illegal size") && !__alloc_percpu_gfp(0, 1, GFP_KERNEL) && told("illegal size"));
    free_percpu((char *)aligned + 4);
    CHECK(told("no object by CPU begins there"));
    free_percpu(aligned);
    free_percpu(aligned);
    CHECK(told("no object by CPU begins there"));
    free_percpu(NULL);
    free_percpu(counters);
    free_percpu(atomic);
    CHECK(nothing_told() && vmalloc_kernel_left() == left);
    counters = alloc_percpu(int);
    for_each_possible_cpu(cpu)
        CHECK(*per_cpu_ptr(counters, cpu) == 0);
    free_percpu(counters);
}

static void *other_thread_context(void *flags)
{
    *(gfp_t *)flags = current_gfp_context(GFP_KERNEL);
    return NULL;
}

static void a_scope_takes_from_the_flags_of_its_thread_until_it_ends(void)
{
    pthread_t thread;
    gfp_t elsewhere = 0;
    CHECK(current_gfp_context(GFP_KERNEL) == GFP_KERNEL);
    unsigned int nofs = memalloc_nofs_save();
    CHECK(current_gfp_context(GFP_KERNEL) == GFP_NOFS && current_gfp_context(GFP_ATOMIC) == GFP_ATOMIC);
    unsigned int inner = memalloc_nofs_save(), noio = memalloc_noio_save();
    CHECK(current_gfp_context(GFP_KERNEL) == GFP_NOIO);
    unsigned int noreclaim = memalloc_noreclaim_save();
    CHECK(current_gfp_context(GFP_KERNEL) == __GFP_KSWAPD_RECLAIM);
    pthread_create(&thread, NULL, other_thread_context, &elsewhere);
    pthread_join(thread, NULL);
    CHECK(elsewhere == GFP_KERNEL);
    memalloc_noreclaim_restore(noreclaim);
    CHECK(current_gfp_context(GFP_KERNEL) == GFP_NOIO);
    memalloc_noio_restore(noio);
    memalloc_nofs_restore(inner);
    CHECK(current_gfp_context(GFP_KERNEL) == GFP_NOFS);
    void *area = vmalloc(1);
    CHECK(lives(area));
    vfree(area);
    memalloc_nofs_restore(nofs);
    CHECK(current_gfp_context(GFP_KERNEL) == GFP_KERNEL);
}

#ifdef DEBUG_ASSERTIONS
int vmalloc_panic(struct vmalloc_instance *vm);

static void after_a_panic_the_process_goes_on(void)
{
    fprintf(stderr, "(the next lines tell of a panic that is forced)\n");
    CHECK(vmalloc_panic(vmalloc_kernel_instance()) == VMALLOC_ERROR_NOTRECOVERABLE);
    vfree(&before_fault);
    CHECK(!vmalloc(1) && !kmalloc(1, GFP_KERNEL) && !alloc_page(GFP_KERNEL));
    CHECK(vmalloc_last_error() == VMALLOC_ERROR_NOTRECOVERABLE);
}
#endif

int main(void)
{
    RUN(the_subsystem_begins_once_with_the_memory_that_is_asked_for);
    RUN(vmalloc_makes_an_area_for_its_caller_and_vfree_frees_it);
    RUN(the_cleared_ones_are_clear);
    RUN(a_node_that_there_is_not_is_refused);
    RUN(flags_say_whether_the_log_is_told);
    RUN(vmalloc_node_with_two_lines_aligns_and_notes_its_caller);
    RUN(vrealloc_keeps_what_is_written);
    RUN(a_page_has_bytes_a_structure_and_a_number);
    RUN(a_bulk_fills_the_places_that_are_empty);
    RUN(pages_are_mapped_side_by_side);
    RUN(no_alias_survives_vm_unmap_aliases);
    RUN(objects_are_of_the_slab);
    RUN(a_large_block_may_be_an_area);
    RUN(a_block_is_freed_when_its_readers_have_ended);
    RUN(an_object_by_cpu_has_bytes_of_its_own_for_each_cpu);
    RUN(a_scope_takes_from_the_flags_of_its_thread_until_it_ends);
    CHECK(vmalloc_kernel_left() == 0 && vmalloc_check(vmalloc_kernel_instance()) == 0);
#ifdef DEBUG_ASSERTIONS
    RUN(after_a_panic_the_process_goes_on);
#endif
    return 0;
}
