// The source of a kernel module that uses the allocator as drivers and tests of a kernel do: it knows
// nothing of this library but the headers of a kernel.
#include <linux/atomic.h>
#include <linux/completion.h>
#include <linux/delay.h>
#include <linux/err.h>
#include <linux/init.h>
#include <linux/kernel.h>
#include <linux/kthread.h>
#include <linux/ktime.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/moduleparam.h>
#include <linux/mutex.h>
#include <linux/percpu.h>
#include <linux/printk.h>
#include <linux/random.h>
#include <linux/rcupdate.h>
#include <linux/rwsem.h>
#include <linux/sched.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>
#include <linux/vmalloc.h>

static int loops = 200;
module_param(loops, int, 0444);
MODULE_PARM_DESC(loops, "How often each case is repeated");

static uint threads = 2;
module_param(threads, uint, 0444);

// As modules do that have many: a macro of their own.
#define OPTION(type, name) static type name; module_param(name, type, 0444)
OPTION(bool, leak);

static char *only = "";
module_param(only, charp, 0444);

static struct rw_semaphore begin;
static DEFINE_MUTEX(results_lock);
static DECLARE_COMPLETION(ended);
static atomic_t left = ATOMIC_INIT(0);

// A store to the first byte and the last, which are to be there still.
static int touch(char *area, unsigned long size, char value)
{
    if (!area)
        return -ENOMEM;
    area[0] = value;
    area[size - 1] = value;
    return area[0] == value && area[size - 1] == value ? 0 : -EIO;
}

static int fixed_size(void)
{
    for (int n = 0; n < loops; n++) {
        unsigned long size = (1UL << n % 6) * PAGE_SIZE;
        char *area = vmalloc_node(size, NUMA_NO_NODE);
        int error = touch(area, size, (char)n);
        vfree(area);
        if (error)
            return error;
    }
    return 0;
}

static int random_size(void)
{
    for (int n = 0; n < loops; n++) {
        unsigned long size = get_random_u32_inclusive(1, 100) * PAGE_SIZE;
        char *area = vmalloc(size);
        int error = touch(area, size, (char)n);
        vfree(area);
        if (error)
            return error;
    }
    return 0;
}

static int aligned(void)
{
    for (int n = 0; n < loops; n++) {
        unsigned long align = PAGE_SIZE << n % 8, size = get_random_u32_inclusive(1, 10) * PAGE_SIZE;
        char *area = __vmalloc_node(size, align, GFP_KERNEL | __GFP_ZERO, NUMA_NO_NODE, __builtin_return_address(0));
        bool wrong = area && ((unsigned long)area % align || area[0] || area[size - 1]);
        int error = wrong ? -EFAULT : touch(area, size, (char)n);
        vfree(area);
        if (error)
            return error;
    }
    return 0;
}

// One page comes and goes in each hole between others.
static int full_fit(void)
{
    enum { AREAS = 500 };
    void **areas = kcalloc(2 * AREAS, sizeof *areas, GFP_KERNEL);
    int error = areas ? 0 : -ENOMEM;
    for (int n = 0; !error && n < 2 * AREAS; n++)
        error = (areas[n] = vmalloc(PAGE_SIZE)) ? 0 : -ENOMEM;
    for (int n = 0; !error && n < 2 * AREAS; n += 2) {
        vfree(areas[n]);
        areas[n] = vmalloc(PAGE_SIZE);
        error = touch(areas[n], PAGE_SIZE, (char)n);
    }
    for (int n = 0; areas && n < 2 * AREAS; n++)
        vfree(areas[n]);
    kfree(areas);
    return error;
}

static int long_busy_list(void)
{
    enum { AREAS = 2000 };
    void **areas = kvcalloc(AREAS, sizeof *areas, GFP_KERNEL);
    int error = areas ? 0 : -ENOMEM;
    for (int n = 0; !error && n < AREAS; n++)
        error = (areas[n] = vmalloc(PAGE_SIZE)) ? 0 : -ENOMEM;
    for (int n = 0; !error && n < loops; n++) {
        char *large = vmalloc(100 * PAGE_SIZE), *small = vmalloc(PAGE_SIZE);
        error = touch(large, 100 * PAGE_SIZE, 1) ?: touch(small, PAGE_SIZE, 2);
        vfree(large);
        vfree(small);
    }
    for (int n = 0; areas && n < AREAS; n++)
        vfree(areas[n]);
    kvfree(areas);
    return error;
}

static int map_ram(void)
{
    enum { PAGES = 16 };
    struct page **pages = kcalloc(PAGES, sizeof *pages, GFP_KERNEL);
    if (!pages)
        return -ENOMEM;
    unsigned long count = alloc_pages_bulk(GFP_KERNEL, PAGES, pages);
    int error = count == PAGES ? 0 : -ENOMEM;
    for (int n = 0; !error && n < loops; n++) {
        char *map = vm_map_ram(pages, PAGES, NUMA_NO_NODE);
        error = touch(map, PAGES * PAGE_SIZE, (char)n);
        if (!error && ((char *)page_address(pages[0]))[0] != (char)n)
            error = -EIO;
        if (map)
            vm_unmap_ram(map, PAGES);
    }
    for (unsigned long n = 0; n < count; n++)
        __free_page(pages[n]);
    kfree(pages);
    return error;
}

struct record {
    struct rcu_head rcu;
    unsigned char bytes[1000];
};

static int after_a_grace_period(void)
{
    for (int n = 0; n < loops; n++) {
        struct record *area = vmalloc(sizeof *area), *object = kvmalloc(sizeof *object, GFP_KERNEL);
        void *headless = vmalloc(PAGE_SIZE);
        int error = touch((char *)area, sizeof *area, 1) ?: touch((char *)object, sizeof *object, 2) ?: touch(headless, 1, 3);
        rcu_read_lock();
        kvfree_rcu(area, rcu);
        kvfree_rcu(object, rcu);
        if (!error && (((unsigned char *)area)[sizeof *area - 1] != 1 || object->bytes[999] != 2))
            error = -EIO;
        rcu_read_unlock();
        kvfree_rcu_mightsleep(headless);
        if (error)
            return error;
    }
    return 0;
}

static int by_cpu(void)
{
    enum { OBJECTS = 300 };
    void __percpu **objects = kcalloc(OBJECTS, sizeof *objects, GFP_KERNEL);
    int error = objects ? 0 : -ENOMEM, cpu;
    for (int n = 0; !error && n < OBJECTS; n++) {
        size_t size = get_random_u32_inclusive(1, 1024), align = 1UL << get_random_u32_inclusive(1, 11);
        objects[n] = __alloc_percpu(size, align);
        error = objects[n] ? 0 : -ENOMEM;
        for_each_possible_cpu(cpu)
            if (!error)
                error = touch(per_cpu_ptr(objects[n], cpu), size, (char)cpu);
    }
    for (int n = 0; objects && n < OBJECTS; n++)
        free_percpu(objects[n]);
    kfree(objects);
    return error;
}

static int resized(void)
{
    static const unsigned long pages[] = { 4, 1, 40, 2, 1 };
    for (int n = 0; n < loops; n++) {
        char *area = vmalloc(PAGE_SIZE);
        if (touch(area, PAGE_SIZE, (char)n))
            return -ENOMEM;
        for (unsigned int at = 0; at < ARRAY_SIZE(pages); at++) {
            char *moved = vrealloc(area, pages[at] * PAGE_SIZE, GFP_KERNEL);
            area = moved ?: area;
            if (!moved || area[0] != (char)n) {
                vfree(area);
                return moved ? -EIO : -ENOMEM;
            }
        }
        vfree(area);
    }
    return 0;
}

static int huge_in_a_scope(void)
{
    unsigned int noio = memalloc_noio_save();
    unsigned long size = min_t(unsigned long, 4UL << 20, 1UL << fls(4 << 20));
    char *area = vmalloc_huge(size, GFP_KERNEL);
    int error = current_gfp_context(GFP_KERNEL) == GFP_NOIO ? touch(area, size, 1) : -EINVAL;
    vfree(area);
    memalloc_noio_restore(noio);
    return error;
}

static struct {
    const char *name;
    int (*run)(void);
    int passed, failed;
    s64 longest_us;
} cases[] = {
    { .name = "fixed_size", .run = fixed_size },
    { .name = "random_size", .run = random_size },
    { .name = "aligned", .run = aligned },
    { .name = "full_fit", .run = full_fit },
    { .name = "long_busy_list", .run = long_busy_list },
    { .name = "map_ram", .run = map_ram },
    { .name = "after_a_grace_period", .run = after_a_grace_period },
    { .name = "by_cpu", .run = by_cpu },
    { .name = "resized", .run = resized },
    { .name = "huge_in_a_scope", .run = huge_in_a_scope },
};

static int worker(void *number)
{
    down_read(&begin);
    for (unsigned int n = 0; n < ARRAY_SIZE(cases); n++) {
        if (only[0] && strcmp(only, cases[n].name))
            continue;
        ktime_t start = ktime_get();
        int error = cases[n].run();
        s64 us = ktime_us_delta(ktime_get(), start);
        mutex_lock(&results_lock);
        cases[n].passed += !error;
        cases[n].failed += !!error;
        cases[n].longest_us = max(cases[n].longest_us, us);
        mutex_unlock(&results_lock);
        if (error)
            pr_err("%s: %d\n", cases[n].name, error);
        cond_resched();
    }
    up_read(&begin);
    if (atomic_dec_and_test(&left))
        complete(&ended);
    while (!kthread_should_stop())
        msleep(1);
    return *(int *)number;
}

static int __init module_test_init(void)
{
    struct task_struct **tasks = kcalloc(threads, sizeof *tasks, GFP_KERNEL);
    int *numbers = kcalloc(threads, sizeof *numbers, GFP_KERNEL), failed = 0;
    if (!tasks || !numbers)
        return -ENOMEM;
    init_rwsem(&begin);
    down_write(&begin);
    atomic_set(&left, threads);
    for (uint n = 0; n < threads; n++) {
        numbers[n] = n;
        tasks[n] = kthread_run(worker, &numbers[n], "worker/%u", n);
        BUG_ON(IS_ERR(tasks[n]));
    }
    up_write(&begin);
    wait_for_completion(&ended);
    for (uint n = 0; n < threads; n++)
        failed += WARN_ON(kthread_stop(tasks[n]) != (int)n);
    for (unsigned int n = 0; n < ARRAY_SIZE(cases); n++) {
        if (cases[n].passed + cases[n].failed)
            pr_info("%s: passed %d, failed %d\n", cases[n].name, cases[n].passed, cases[n].failed);
        failed += cases[n].failed;
    }
    kfree(tasks);
    kfree(numbers);
    return failed ? -EIO : 0;
}

static void __exit module_test_exit(void)
{
    if (leak)
        pr_info("left behind: %p\n", vmalloc(1));
    printk(KERN_INFO "the module has ended\n");
}

module_init(module_test_init);
module_exit(module_test_exit);
MODULE_LICENSE("Dual MIT/Apache");
MODULE_DESCRIPTION("Areas of all kinds, by several threads");
