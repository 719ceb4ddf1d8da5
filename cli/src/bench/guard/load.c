/*
 * load LIVE REPLACE: makes LIVE objects of 16 to 512 bytes, then REPLACE times frees
 * one of them, chosen at random, and makes another one in its place.
 *
 * Prints nanoseconds of CPU time (user and system) of the replacing, mappings of the
 * process, and the most memory that it had, in KiB. What it needs itself is no
 * allocation.
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

static uint64_t state = 88172645463325252ull;

/* Xorshift: the same numbers in each run. */
static uint64_t next(void)
{
	state ^= state << 13;
	state ^= state >> 7;
	return state ^= state << 17;
}

static char *object(void)
{
	size_t size = 16 + next() % 497;
	char *p = malloc(size);

	if (!p) {
		fprintf(stderr, "malloc has no memory\n");
		exit(3);
	}
	p[0] = p[size - 1] = 'x';
	return p;
}

static uint64_t now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
	return (uint64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

/* Lines of a file, and the number behind KEY in one of them, if there is one. */
static unsigned long lines(const char *path, const char *key, unsigned long *value)
{
	static char buffer[1 << 16];
	unsigned long count = 0;
	ssize_t n;
	int file = open(path, O_RDONLY);

	while ((n = read(file, buffer, sizeof buffer - 1)) > 0) {
		char *found;

		buffer[n] = 0;
		found = key ? strstr(buffer, key) : NULL;
		if (found)
			*value = strtoul(found + strlen(key), NULL, 10);
		for (ssize_t i = 0; i < n; i++)
			count += buffer[i] == '\n';
	}
	close(file);
	return count;
}

int main(int argc, char **argv)
{
	size_t live = argc == 3 ? strtoul(argv[1], NULL, 0) : 0;
	size_t replace = argc == 3 ? strtoul(argv[2], NULL, 0) : 0;
	unsigned long most = 0, mappings;
	uint64_t start, took;
	char **objects;

	if (!live)
		return 2;
	objects = mmap(NULL, live * sizeof *objects, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (objects == MAP_FAILED)
		return 3;
	for (size_t i = 0; i < live; i++)
		objects[i] = object();
	start = now();
	for (size_t i = 0; i < replace; i++) {
		size_t at = next() % live;

		free(objects[at]);
		objects[at] = object();
	}
	took = now() - start;
	mappings = lines("/proc/self/maps", NULL, NULL);
	lines("/proc/self/status", "VmHWM:", &most);
	printf("%llu %lu %lu\n", (unsigned long long)took, mappings, most);
	return 0;
}
