// vmalloc.h, as a program uses it.
#define _POSIX_C_SOURCE 200809L
#include "check.h"
#include "fault.h"
#include <pthread.h>
#include <vmalloc.h>

#define PAGE 4096
#define MIB (1024 * 1024)

static struct vmalloc_instance *small(enum vmalloc_policy policy)
{
    struct vmalloc_options options = { .memory = 8 * MIB, .addresses = 64 * MIB, .cpus = 2, .policy = policy };
    struct vmalloc_instance *vm = vmalloc_new(&options);
    CHECK(vm);
    return vm;
}

static struct vmalloc_sums sums(struct vmalloc_instance *vm)
{
    struct vmalloc_sums sums;
    CHECK(vmalloc_stats(vm, &sums) == 0);
    return sums;
}

// Frames that are no area's.
static size_t frames(struct vmalloc_instance *vm)
{
    struct vmalloc_sums all = sums(vm);
    return all.free_frames + all.waiting_pages + all.table_frames + all.bookkeeping_frames;
}

static struct vmalloc_what whatis(struct vmalloc_instance *vm, const void *at)
{
    struct vmalloc_what what;
    CHECK(vmalloc_whatis(vm, at, &what) == 0);
    return what;
}

// Whether the thread's last error has this number, and this in its text.
static bool refused(int number, const char *text)
{
    return vmalloc_last_error() == number && strstr(vmalloc_last_message(), text);
}

static void an_area_holds_what_is_written_and_a_guard_follows(void)
{
    struct vmalloc_instance *vm = small(VMALLOC_POLICY_KEEP);
    char *area = vmalloc_alloc(vm, 10000, VMALLOC_HERE);
    CHECK(area);
    for (int at = 0; at < 3 * PAGE; at++)
        area[at] = (char)(at * 7);
    for (int at = 0; at < 3 * PAGE; at++)
        CHECK(area[at] == (char)(at * 7));
    CHECK(faults(area + 3 * PAGE));
    struct vmalloc_what what = whatis(vm, area + 9999);
    CHECK(what.answer == VMALLOC_ANSWER_INSIDE && what.offset == 9999);
    CHECK(what.area.start == area && what.area.size == 10000 && what.area.pages == 3);
    CHECK(what.area.kind == VMALLOC_KIND_MEMORY && what.area.guard && !what.area.freed_by);
    what = whatis(vm, area + 3 * PAGE + 5);
    CHECK(what.answer == VMALLOC_ANSWER_GUARD && what.offset == 5 && what.area.start == area);
    CHECK(whatis(vm, &what).answer == VMALLOC_ANSWER_NOT_OURS);
    CHECK(vmalloc_free(vm, area, VMALLOC_HERE) == 0);
    CHECK(vmalloc_free(vm, NULL, NULL) == 0);
    vmalloc_delete(vm);
}

static void what_is_freed_faults_at_once_if_the_policy_is_strict(void)
{
    struct vmalloc_instance *vm = small(VMALLOC_POLICY_STRICT);
    char *area = vmalloc_alloc(vm, PAGE, VMALLOC_HERE);
    CHECK(area && !faults(area));
    CHECK(vmalloc_free(vm, area, VMALLOC_HERE) == 0 && faults(area));
    CHECK(whatis(vm, area).answer == VMALLOC_ANSWER_FREED);
    vmalloc_delete(vm);
}

static void a_request_chooses_zeros_an_alignment_a_stack_or_no_guard(void)
{
    struct vmalloc_instance *vm = small(VMALLOC_POLICY_KEEP);
    char *dirty = vmalloc_alloc(vm, 2 * PAGE, NULL);
    CHECK(dirty);
    memset(dirty, 'x', 2 * PAGE);
    CHECK(vmalloc_free(vm, dirty, NULL) == 0);
    struct vmalloc_request request = { .size = 2 * PAGE, .flags = VMALLOC_ZERO };
    char *clear = vmalloc_alloc_with(vm, &request);
    CHECK(clear == dirty && clear[0] == 0 && clear[2 * PAGE - 1] == 0);

    char *aligned = vmalloc_alloc_with(vm, &(struct vmalloc_request){ .size = 1, .align = 32 * 1024 });
    CHECK(aligned && (uintptr_t)aligned % (32 * 1024) == 0);

    char *stack = vmalloc_alloc_with(vm, &(struct vmalloc_request){ .size = 3 * PAGE, .flags = VMALLOC_STACK });
    CHECK(stack && (uintptr_t)stack % (4 * PAGE) == 0 && faults(stack - 1) && stack[3 * PAGE - 1] == 0);
    CHECK(whatis(vm, stack).area.kind == VMALLOC_KIND_STACK);

    char *bare = vmalloc_alloc_with(vm, &(struct vmalloc_request){ .size = PAGE, .flags = VMALLOC_NO_GUARD });
    CHECK(bare && !whatis(vm, bare).area.guard);

    request = (struct vmalloc_request){ .size = PAGE, .flags = 32 };
    CHECK(!vmalloc_alloc_with(vm, &request) && refused(VMALLOC_ERROR_INVAL, "a flag that no request has"));
    request.flags = VMALLOC_STACK | VMALLOC_NO_GUARD;
    CHECK(!vmalloc_alloc_with(vm, &request) && vmalloc_last_error() == VMALLOC_ERROR_INVAL);
    vmalloc_delete(vm);
}

static int lines;

static void count_line(void *arg, const char *line)
{
    CHECK(arg == &lines && strlen(line) > 0);
    lines++;
}

static void a_refusal_has_a_number_and_a_text_with_the_numbers_of_the_call(void)
{
    struct vmalloc_options options = { .memory = 4 * MIB, .addresses = 64 * MIB, .cpus = 1, .log = count_line, .log_arg = &lines };
    struct vmalloc_instance *vm = vmalloc_new(&options);
    CHECK(vm);
    lines = 0;
    CHECK(!vmalloc_alloc(vm, (size_t)1 << 40, NULL));
    CHECK(refused(VMALLOC_ERROR_TOO_BIG, "1099511627776 bytes"));
    CHECK(lines == 1);
    CHECK(!vmalloc_alloc(vm, 0, NULL) && refused(VMALLOC_ERROR_INVAL, "zero bytes"));

    char *most = vmalloc_alloc(vm, 3 * MIB, NULL);
    struct vmalloc_sums before = sums(vm);
    size_t frames_before = frames(vm);
    CHECK(most && !vmalloc_alloc(vm, 3 * MIB, NULL) && refused(VMALLOC_ERROR_NOMEM, "768 frames wanted"));
    CHECK(sums(vm).areas == before.areas && sums(vm).pages == before.pages && frames(vm) == frames_before);

    int was = lines;
    struct vmalloc_request request = { .size = 3 * MIB, .flags = VMALLOC_NOWARN | VMALLOC_NOWAIT };
    CHECK(!vmalloc_alloc_with(vm, &request) && lines == was);
    CHECK(!strcmp(vmalloc_strerror(VMALLOC_ERROR_NOMEM), "out of memory"));
    CHECK(!strcmp(vmalloc_strerror(1), "no error of vmalloc has this number"));
    vmalloc_delete(vm);
}

static void no_gap_is_not_the_same_as_no_memory(void)
{
    struct vmalloc_options options = { .memory = 8 * MIB, .addresses = 2 * MIB, .cpus = 1, .lowest = true };
    struct vmalloc_instance *vm = vmalloc_new(&options);
    CHECK(vm);
    char *first = vmalloc_alloc(vm, MIB, NULL);
    CHECK(first && !vmalloc_alloc(vm, MIB, NULL) && refused(VMALLOC_ERROR_NOSPC, "no gap of 257 pages"));
    // The placement is the lowest hole: the next area lies right behind the guard.
    CHECK((char *)vmalloc_alloc(vm, PAGE, NULL) == first + MIB + PAGE);
    vmalloc_delete(vm);
}

static void a_purge_makes_what_was_freed_usable_again(void)
{
    struct vmalloc_instance *vm = small(VMALLOC_POLICY_UNMAP);
    void *area = vmalloc_alloc(vm, 16 * PAGE, NULL);
    CHECK(area && vmalloc_free(vm, area, NULL) == 0 && sums(vm).waiting_pages == 16);
    CHECK(vmalloc_purge(vm) >= 16 && sums(vm).waiting_pages == 0);
    CHECK(whatis(vm, area).answer != VMALLOC_ANSWER_INSIDE && faults(area));
    vmalloc_delete(vm);
}

static void *error_of_a_new_thread(void *number)
{
    *(int *)number = vmalloc_last_error();
    return NULL;
}

static void each_thread_has_its_own_last_error(void)
{
    pthread_t thread;
    int other = 1;
    CHECK(!vmalloc_alloc(NULL, 1, NULL) && vmalloc_last_error() == VMALLOC_ERROR_INVAL);
    CHECK(pthread_create(&thread, NULL, error_of_a_new_thread, &other) == 0 && pthread_join(thread, NULL) == 0);
    CHECK(other == 0 && vmalloc_last_error() == VMALLOC_ERROR_INVAL);
}

// Not static, and not inlined: their names are found.
__attribute__((noinline)) void *the_allocating_function(struct vmalloc_instance *vm)
{
    return vmalloc_alloc(vm, 5000, VMALLOC_HERE);
}

__attribute__((noinline)) int the_freeing_function(struct vmalloc_instance *vm, void *at)
{
    return vmalloc_free(vm, at, VMALLOC_HERE);
}

static bool is_named(const void *code, const char *name)
{
    char text[80];
    CHECK(vmalloc_symbol(code, text, sizeof text) == strlen(text));
    return !strncmp(text, name, strlen(name)) && text[strlen(name)] == '+';
}

static void a_double_free_is_refused_and_both_callers_are_known(void)
{
    struct vmalloc_instance *vm = small(VMALLOC_POLICY_UNMAP);
    char *area = the_allocating_function(vm), text[300], few[10];
    CHECK(area && is_named(whatis(vm, area).area.by, "the_allocating_function"));
    CHECK(vmalloc_free(vm, area + 16, NULL) == VMALLOC_ERROR_INVAL && refused(VMALLOC_ERROR_INVAL, "0x10 bytes into"));
    CHECK(the_freeing_function(vm, area) == 0);
    CHECK(the_freeing_function(vm, area) == VMALLOC_ERROR_ALREADY && refused(VMALLOC_ERROR_ALREADY, "5000 bytes"));
    struct vmalloc_what what = whatis(vm, area + 1);
    CHECK(what.answer == VMALLOC_ANSWER_FREED && is_named(what.area.by, "the_allocating_function"));
    CHECK(is_named(what.area.freed_by, "the_freeing_function"));
    size_t bytes = vmalloc_whatis_text(vm, area, text, sizeof text);
    CHECK(bytes == strlen(text) && strstr(text, "in the freed area of 5000 bytes"));
    CHECK(vmalloc_whatis_text(vm, area, few, sizeof few) == bytes && !strncmp(few, text, 9) && strlen(few) == 9);
    CHECK(vmalloc_whatis_text(vm, area, NULL, 0) == bytes);
    CHECK(vmalloc_free(vm, &text, NULL) == VMALLOC_ERROR_NOENT);
    vmalloc_delete(vm);
}

static void an_area_shrinks_and_grows_where_it_is(void)
{
    struct vmalloc_instance *vm = small(VMALLOC_POLICY_KEEP);
    char *area = vmalloc_alloc(vm, 8 * PAGE, NULL);
    CHECK(area);
    area[0] = 'a';
    CHECK(vmalloc_shrink(vm, area, 2 * PAGE) == 0 && whatis(vm, area).area.pages == 2 && sums(vm).pages == 2);
    CHECK(vmalloc_grow(vm, area, 6 * PAGE) == 0 && whatis(vm, area).area.pages == 6);
    area[6 * PAGE - 1] = 'z';
    CHECK(area[0] == 'a' && area[6 * PAGE - 1] == 'z');
    CHECK(vmalloc_grow(vm, area, MIB) == VMALLOC_ERROR_NOSPC && whatis(vm, area).area.pages == 6);
    CHECK(vmalloc_shrink(vm, NULL, 1) == VMALLOC_ERROR_INVAL);
    vmalloc_delete(vm);
}

static void frames_are_mapped_twice_and_show_the_same_bytes(void)
{
    struct vmalloc_instance *vm = small(VMALLOC_POLICY_UNMAP);
    uint64_t frame[3], held;
    size_t before = frames(vm);
    CHECK(vmalloc_frames_alloc(vm, frame, 3) == 0);
    CHECK(frame[0] != frame[1] && frame[1] != frame[2] && frames(vm) == before - 3);
    char *one = vmalloc_vmap(vm, frame, 3, VMALLOC_HERE), *two = vmalloc_map_ram(vm, frame, 3);
    CHECK(one && two && one != two && whatis(vm, one).area.kind == VMALLOC_KIND_VMAP);
    CHECK(whatis(vm, two).area.kind == VMALLOC_KIND_MAP_RAM && !whatis(vm, two).area.guard);
    one[2 * PAGE + 1] = 'x';
    CHECK(two[2 * PAGE + 1] == 'x' && faults(one + 3 * PAGE));
    CHECK(vmalloc_frame_hold(vm, one + PAGE, &held) == 0 && held == frame[1]);
    CHECK(vmalloc_frame_hold(vm, one + 3 * PAGE, &held) == VMALLOC_ERROR_INVAL);
    CHECK(vmalloc_frames_free(vm, &held, 1) == 0);

    CHECK(vmalloc_unmap_ram(vm, two, 2) == VMALLOC_ERROR_INVAL && refused(VMALLOC_ERROR_INVAL, "3 pages, not 2"));
    CHECK(vmalloc_unmap_ram(vm, two, 3) == 0 && vmalloc_free(vm, one, NULL) == VMALLOC_ERROR_INVAL);
    CHECK(vmalloc_vunmap(vm, one) == 0 && vmalloc_vunmap(vm, one) == VMALLOC_ERROR_ALREADY);
    CHECK(vmalloc_frames_free(vm, frame, 3) == 0);
    vmalloc_purge(vm);
    CHECK(sums(vm).areas == 0 && frames(vm) == before && vmalloc_check(vm) == 0);
    uint64_t none = 1 << 30;
    CHECK(vmalloc_frames_free(vm, &none, 1) == VMALLOC_ERROR_INVAL && refused(VMALLOC_ERROR_INVAL, "0x40000000"));
    vmalloc_delete(vm);
}

static void frames_are_had_all_or_none(void)
{
    struct vmalloc_instance *vm = small(VMALLOC_POLICY_UNMAP);
    static uint64_t all[8 * MIB / PAGE];
    size_t before = frames(vm);
    CHECK(vmalloc_frames_alloc(vm, all, 8 * MIB / PAGE) == VMALLOC_ERROR_NOMEM);
    CHECK(frames(vm) == before && all[0] == 0);
    CHECK(vmalloc_frames_alloc(vm, NULL, 1) == VMALLOC_ERROR_INVAL);
    vmalloc_delete(vm);
}

struct text {
    char bytes[4000];
    size_t used, pieces, most;
};

static int append(void *arg, const char *piece, size_t bytes)
{
    struct text *text = arg;
    CHECK(text->used + bytes < sizeof text->bytes);
    memcpy(text->bytes + text->used, piece, bytes);
    text->used += bytes;
    return ++text->pieces == text->most ? 7 : 0;
}

static void the_listing_has_a_line_for_each_area(void)
{
    struct vmalloc_instance *vm = small(VMALLOC_POLICY_UNMAP);
    struct text text = { .used = 0 };
    void *area = the_allocating_function(vm), *other = vmalloc_alloc(vm, PAGE, NULL);
    CHECK(area && other && vmalloc_free(vm, other, NULL) == 0);
    CHECK(vmalloc_list(vm, append, &text) == 0);
    char line[100];
    snprintf(line, sizeof line, "0x%016zx-0x%016zx   12288 the_allocating_function+0x", (size_t)area, (size_t)area + 3 * PAGE);
    CHECK(strstr(text.bytes, line) && strstr(text.bytes, " pages=2 vmalloc N0=2\n"));
    CHECK(strstr(text.bytes, "unpurged vm_area\n"));
    struct text short_text = { .most = 2 };
    CHECK(vmalloc_list(vm, append, &short_text) == 7 && short_text.pieces == 2);
    CHECK(vmalloc_list(vm, NULL, NULL) == VMALLOC_ERROR_INVAL);
    vmalloc_delete(vm);
}

static void ticks_give_back_what_nobody_needs(void)
{
    struct vmalloc_instance *vm = small(VMALLOC_POLICY_KEEP);
    void *area = vmalloc_alloc(vm, PAGE, NULL);
    CHECK(area && vmalloc_free(vm, area, NULL) == 0 && sums(vm).cached_pages == 1);
    for (int ticks = 0; ticks < 10000 && sums(vm).cached_pages > 0; ticks++)
        CHECK(vmalloc_tick(vm) == 0);
    CHECK(sums(vm).cached_pages == 0 && sums(vm).areas == 0 && sums(vm).mappings <= sums(vm).mappings_allowed);
    vmalloc_delete(vm);
}

static void an_instance_that_is_deleted_has_no_memory_any_more(void)
{
    struct vmalloc_instance *vm = small(VMALLOC_POLICY_KEEP);
    char *area = vmalloc_alloc(vm, PAGE, NULL);
    CHECK(area && !faults(area));
    vmalloc_delete(vm);
    CHECK(faults(area));
    vmalloc_delete(NULL);
}

static void what_can_never_be_right_is_refused(void)
{
    struct vmalloc_what what;
    CHECK(!vmalloc_new(&(struct vmalloc_options){ .policy = 3 }) && refused(VMALLOC_ERROR_INVAL, "policy"));
    CHECK(!vmalloc_new(&(struct vmalloc_options){ .memory = SIZE_MAX }) && vmalloc_last_error() == VMALLOC_ERROR_TOO_BIG);
    CHECK(vmalloc_free(NULL, &what, NULL) == VMALLOC_ERROR_INVAL && refused(VMALLOC_ERROR_INVAL, "instance is null"));
    CHECK(vmalloc_check(NULL) == VMALLOC_ERROR_INVAL && vmalloc_tick(NULL) == VMALLOC_ERROR_INVAL);
    CHECK(vmalloc_whatis(NULL, NULL, &what) == VMALLOC_ERROR_INVAL);
    struct vmalloc_instance *vm = vmalloc_new(NULL);
    CHECK(vm && vmalloc_whatis(vm, NULL, NULL) == VMALLOC_ERROR_INVAL && vmalloc_stats(vm, NULL) == VMALLOC_ERROR_INVAL);
    CHECK(!vmalloc_alloc_with(vm, NULL) && vmalloc_last_error() == VMALLOC_ERROR_INVAL);
    CHECK(vmalloc_vunmap(vm, NULL) == VMALLOC_ERROR_INVAL && vmalloc_frame_hold(vm, vm, NULL) == VMALLOC_ERROR_INVAL);
    vmalloc_delete(vm);
}

#ifdef DEBUG_ASSERTIONS
int vmalloc_panic(struct vmalloc_instance *vm);

static void a_panic_becomes_an_error_and_the_instance_serves_no_more(void)
{
    struct vmalloc_instance *vm = small(VMALLOC_POLICY_KEEP), *other = small(VMALLOC_POLICY_KEEP);
    char *area = vmalloc_alloc(vm, PAGE, NULL);
    CHECK(area);
    fprintf(stderr, "(the next lines tell of a panic that is forced)\n");
    CHECK(vmalloc_panic(vm) == VMALLOC_ERROR_NOTRECOVERABLE && refused(VMALLOC_ERROR_NOTRECOVERABLE, "panicked"));
    area[0] = 'a';
    CHECK(vmalloc_free(vm, area, NULL) == VMALLOC_ERROR_NOTRECOVERABLE && area[0] == 'a');
    CHECK(!vmalloc_alloc(vm, PAGE, NULL) && vmalloc_check(vm) == VMALLOC_ERROR_NOTRECOVERABLE);
    CHECK(vmalloc_alloc(other, PAGE, NULL) && vmalloc_check(other) == 0);
    vmalloc_delete(vm);
    area[0] = 'b';
    vmalloc_delete(other);
}
#endif

int main(void)
{
    RUN(an_area_holds_what_is_written_and_a_guard_follows);
    RUN(what_is_freed_faults_at_once_if_the_policy_is_strict);
    RUN(a_request_chooses_zeros_an_alignment_a_stack_or_no_guard);
    RUN(a_refusal_has_a_number_and_a_text_with_the_numbers_of_the_call);
    RUN(no_gap_is_not_the_same_as_no_memory);
    RUN(a_purge_makes_what_was_freed_usable_again);
    RUN(each_thread_has_its_own_last_error);
    RUN(a_double_free_is_refused_and_both_callers_are_known);
    RUN(an_area_shrinks_and_grows_where_it_is);
    RUN(frames_are_mapped_twice_and_show_the_same_bytes);
    RUN(frames_are_had_all_or_none);
    RUN(the_listing_has_a_line_for_each_area);
    RUN(ticks_give_back_what_nobody_needs);
    RUN(an_instance_that_is_deleted_has_no_memory_any_more);
    RUN(what_can_never_be_right_is_refused);
#ifdef DEBUG_ASSERTIONS
    RUN(a_panic_becomes_an_error_and_the_instance_serves_no_more);
#endif
    return 0;
}
