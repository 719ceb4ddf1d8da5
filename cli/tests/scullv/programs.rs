//! ioctl from other languages, with the original's numbers.

use crate::common::*;
use std::fs;
use std::process::Command;

const PYTHON: &str = r#"
import fcntl, mmap, os, struct, sys
IOC = lambda direction, number: direction << 30 | (4 if direction else 0) << 16 | ord('K') << 8 | number
S, T, G, Q, X, H = (lambda n: IOC(1, n)), (lambda n: IOC(0, n)), (lambda n: IOC(2, n)), (lambda n: IOC(0, n)), (lambda n: IOC(3, n)), (lambda n: IOC(0, n))
device = open(sys.argv[1], 'r+b', buffering=0)
number = lambda value: struct.pack('i', value)
value = lambda packed: struct.unpack('i', packed)[0]
for first, start in ((1, 4), (7, 500)):
    assert fcntl.ioctl(device, Q(first + 3)) == start
    fcntl.ioctl(device, S(first), number(3));        assert fcntl.ioctl(device, Q(first + 3)) == 3
    fcntl.ioctl(device, T(first + 1), 5);            assert value(fcntl.ioctl(device, G(first + 2), number(0))) == 5
    assert value(fcntl.ioctl(device, X(first + 4), number(6))) == 5
    assert fcntl.ioctl(device, H(first + 5), 7) == 6 and fcntl.ioctl(device, Q(first + 3)) == 7
fcntl.ioctl(device, IOC(0, 0))
assert (fcntl.ioctl(device, Q(4)), fcntl.ioctl(device, Q(10))) == (4, 500)
device.write(b'x' * 10000)
with mmap.mmap(device.fileno(), 10000) as mapped:
    mapped[9998:] = b'yz'
    mapped.flush()
os.lseek(device.fileno(), 9997, os.SEEK_SET)
assert device.read() == b'xyz'
print('python is content')
"#;

const C: &str = r#"
#include <assert.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define SCULLV_IOC_MAGIC 'K'
#define SCULLV_IOCRESET _IO(SCULLV_IOC_MAGIC, 0)
#define SCULLV_IOCSORDER _IOW(SCULLV_IOC_MAGIC, 1, int)
#define SCULLV_IOCTORDER _IO(SCULLV_IOC_MAGIC, 2)
#define SCULLV_IOCGORDER _IOR(SCULLV_IOC_MAGIC, 3, int)
#define SCULLV_IOCQORDER _IO(SCULLV_IOC_MAGIC, 4)
#define SCULLV_IOCXORDER _IOWR(SCULLV_IOC_MAGIC, 5, int)
#define SCULLV_IOCHORDER _IO(SCULLV_IOC_MAGIC, 6)
#define SCULLV_IOCSQSET _IOW(SCULLV_IOC_MAGIC, 7, int)
#define SCULLV_IOCTQSET _IO(SCULLV_IOC_MAGIC, 8)
#define SCULLV_IOCGQSET _IOR(SCULLV_IOC_MAGIC, 9, int)
#define SCULLV_IOCQQSET _IO(SCULLV_IOC_MAGIC, 10)
#define SCULLV_IOCXQSET _IOWR(SCULLV_IOC_MAGIC, 11, int)
#define SCULLV_IOCHQSET _IO(SCULLV_IOC_MAGIC, 12)

int main(int argc, char **argv)
{
	int fd = open(argv[1], O_RDWR), n;
	char *p;

	assert(argc == 2 && fd >= 0);
	assert(ioctl(fd, SCULLV_IOCQORDER) == 4 && ioctl(fd, SCULLV_IOCQQSET) == 500);
	n = 2; assert(ioctl(fd, SCULLV_IOCSORDER, &n) == 0 && ioctl(fd, SCULLV_IOCQORDER) == 2);
	assert(ioctl(fd, SCULLV_IOCTORDER, 3) == 0);
	assert(ioctl(fd, SCULLV_IOCGORDER, &n) == 0 && n == 3);
	n = 5; assert(ioctl(fd, SCULLV_IOCXORDER, &n) == 0 && n == 3);
	assert(ioctl(fd, SCULLV_IOCHORDER, 1) == 5 && ioctl(fd, SCULLV_IOCQORDER) == 1);
	n = 20; assert(ioctl(fd, SCULLV_IOCSQSET, &n) == 0 && ioctl(fd, SCULLV_IOCQQSET) == 20);
	assert(ioctl(fd, SCULLV_IOCTQSET, 30) == 0);
	assert(ioctl(fd, SCULLV_IOCGQSET, &n) == 0 && n == 30);
	n = 50; assert(ioctl(fd, SCULLV_IOCXQSET, &n) == 0 && n == 30);
	assert(ioctl(fd, SCULLV_IOCHQSET, 10) == 50 && ioctl(fd, SCULLV_IOCQQSET) == 10);
	assert(ioctl(fd, SCULLV_IOCRESET) == 0 && ioctl(fd, SCULLV_IOCQORDER) == 4 && ioctl(fd, SCULLV_IOCQQSET) == 500);
	assert(write(fd, "hello", 5) == 5);
	p = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	assert(p != MAP_FAILED && !memcmp(p, "hello", 6));
	memcpy(p, "HE", 2);
	assert(msync(p, 4096, MS_SYNC) == 0);
	puts("C is content");
	return 0;
}
"#;

#[test]
fn python_programs_use_ioctl_and_mmap() {
    let Some(mount) = mount("python", &["--memory", "64M"]) else { return };
    if has("python3") {
        let said = run(Command::new("python3").args(["-c", PYTHON]).arg(mount.device(0)));
        assert_eq!(said, "python is content\n");
    }
}

#[test]
fn c_programs_use_ioctl_and_mmap() {
    let Some(mount) = mount("c", &["--memory", "64M"]) else { return };
    if has("cc") {
        let source = mount.folder.with_extension("c");
        let program = mount.folder.with_extension("program");
        fs::write(&source, C).unwrap();
        run(Command::new("cc").args(["-Wall", "-Werror", "-o"]).arg(&program).arg(&source));
        assert_eq!(run(Command::new(&program).arg(mount.device(0))), "C is content\n");
        assert_eq!(mount.read("scullv0"), "HEllo");
    }
}
