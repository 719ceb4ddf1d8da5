/*
 * planted KIND SIZE WAY: does one thing wrong with an allocation of SIZE bytes.
 *
 * KIND  overrun-write, overrun-read, underrun, use-after-free, double-free,
 *       invalid-free, canary (one byte past the end, then a free), none
 * WAY   plain    the same thread does all of it
 *       thread   another thread than the one that allocated does it
 *       fork     a child does it; the exit code is 128 + its signal
 *       realloc  realloc has made the allocation, or has freed it
 *
 * Overruns and underruns go on for a page: wherever the allocation lies in its
 * pages, its guard is reached. A program that nobody watches ends with 0, or dies by
 * what it has done to the heap.
 */
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096
/* More than lies behind any allocation, so that realloc has to move it. */
#define FAR (256 * 1024)

/* The compiler must not know what these point to. */
static char *volatile block;
/* What is read is used, or valgrind leaves the load out. */
static volatile char seen;
static const char *kind, *way;
static size_t size;

static int is(const char *a, const char *b) { return strcmp(a, b) == 0; }

static void make(void)
{
	char *p = malloc(size);

	if (p && is(way, "realloc") && !is(kind, "use-after-free") && !is(kind, "double-free"))
		p = realloc(realloc(p, size + FAR), size);
	if (!p)
		exit(3);
	memset(p, 'x', size);
	block = p;
}

/* The first free, where one belongs to the bug. */
static void release(void)
{
	char *moved;

	if (!is(way, "realloc")) {
		free(block);
		return;
	}
	moved = realloc(block, size + FAR);
	if (moved == block)
		free(moved);
}

static void touch_beyond(int write)
{
	volatile char *p = block;

	for (size_t i = 0; i < PAGE; i++) {
		if (write)
			p[size + i] = 'y';
		else
			seen = p[size + i];
	}
	free(block);
}

static void touch_before(void)
{
	volatile char *p = block;

	for (size_t i = 1; i <= PAGE; i++)
		p[-(ptrdiff_t)i] = 'y';
	free(block);
}

static void use_after_free(void)
{
	release();
	seen = ((volatile char *)block)[size / 2];
}

static void double_free(void)
{
	release();
	free(block);
}

static void invalid_free(void)
{
	free(block + (size > 1 ? size / 2 : 1));
	free(block);
}

static void damage_canary(void)
{
	((volatile char *)block)[size] = 'y';
	free(block);
}

/* All of it right: what is allocated keeps its bytes, is aligned and cleared. */
static void nothing(void)
{
	char *grown, *cleared = calloc(size, 1), *aligned = aligned_alloc(64, (size + 63) / 64 * 64);

	for (size_t i = 0; i < size; i++)
		if (block[i] != 'x' || cleared[i])
			exit(4);
	if ((uintptr_t)block % (size < 16 ? 1 : 16) || (uintptr_t)aligned % 64)
		exit(5);
	memset(aligned, 'z', size);
	grown = realloc(block, size * 2);
	if (memcmp(grown + size / 2, "x", 1))
		exit(6);
	memset(grown, 'y', size * 2);
	free(grown);
	free(cleared);
	free(aligned);
	free(NULL);
}

static void *spoil(void *unused)
{
	if (is(kind, "overrun-write"))
		touch_beyond(1);
	else if (is(kind, "overrun-read"))
		touch_beyond(0);
	else if (is(kind, "underrun"))
		touch_before();
	else if (is(kind, "use-after-free"))
		use_after_free();
	else if (is(kind, "double-free"))
		double_free();
	else if (is(kind, "invalid-free"))
		invalid_free();
	else if (is(kind, "canary"))
		damage_canary();
	else if (is(kind, "none"))
		nothing();
	else
		exit(2);
	return unused;
}

static int in_thread(void)
{
	pthread_t thread;

	if (pthread_create(&thread, NULL, spoil, NULL))
		return 3;
	return pthread_join(thread, NULL) ? 3 : 0;
}

static int in_child(void)
{
	int status;
	pid_t child = fork();

	if (child == 0) {
		spoil(NULL);
		exit(0);
	}
	if (child < 0 || waitpid(child, &status, 0) != child)
		return 3;
	free(block);
	return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

int main(int argc, char **argv)
{
	if (argc != 4 || (size = strtoul(argv[2], NULL, 0)) == 0) {
		fprintf(stderr, "usage: planted KIND SIZE plain|thread|fork|realloc\n");
		return 2;
	}
	kind = argv[1];
	way = argv[3];
	make();
	if (is(way, "thread"))
		return in_thread();
	if (is(way, "fork"))
		return in_child();
	spoil(NULL);
	return 0;
}
