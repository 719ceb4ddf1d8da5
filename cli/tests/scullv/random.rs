//! Random steps on a mounted device and on a model too simple to be wrong:
//! positions and bytes, in a map of pages.
//!
//! Reads, writes, appends, cuts, trims, mappings, seeks for data, commands,
//! files opened anew; near, and far out. The kernel's page cache lies between
//! the two, and must not show.

use crate::common::*;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::ptr::null_mut;

const PAGE: u64 = 4096;
const FAR: u64 = 1 << 45;

/// What a file should be.
#[derive(Default)]
struct Model {
    pages: BTreeMap<u64, Vec<u8>>,
    size: u64,
}

impl Model {
    fn write(&mut self, position: u64, bytes: &[u8]) {
        for (at, &byte) in (position..).zip(bytes) {
            self.pages.entry(at / PAGE).or_insert_with(|| vec![0; PAGE as usize])[(at % PAGE) as usize] = byte;
        }
        if !bytes.is_empty() {
            self.size = self.size.max(position + bytes.len() as u64);
        }
    }

    fn read(&self, position: u64, count: u64) -> Vec<u8> {
        let byte = |at: u64| self.pages.get(&(at / PAGE)).map_or(0, |page| page[(at % PAGE) as usize]);
        (position..self.size.min(position + count).max(position)).map(byte).collect()
    }

    fn cut(&mut self, size: u64) {
        self.pages.retain(|page, _| page * PAGE < size);
        if let Some(last) = self.pages.get_mut(&(size / PAGE)) {
            last[(size % PAGE) as usize..].fill(0);
        }
        self.size = size;
    }
}

struct Pair {
    mount: Mount,
    file: File,
    model: Model,
    rng: Rng,
}

#[test]
fn a_mounted_device_is_what_the_model_is() {
    let steps = set_or("SCULLV_MOUNT_OPS", 2000);
    let Some(mount) = mount("random", &["--memory", "256M", "--order", "1", "--qset", "5"]) else { return };
    let file = mount.open(0);
    let mut pair = Pair { mount, file, model: Model::default(), rng: Rng(11) };
    for step in 0..steps {
        pair.step();
        if step % 500 == 0 {
            pair.compare();
        }
    }
    pair.compare();
    println!("{steps} steps through the mount");
    pair.mount.trim(0);
    assert_eq!(pair.mount.areas(), [""; 0], "nothing leaked");
    let (code, said) = drop_files(pair).end(libc::SIGTERM);
    assert_eq!(code, Some(0), "{said}");
}

fn drop_files(pair: Pair) -> Mount {
    pair.mount
}

impl Pair {
    fn step(&mut self) {
        match self.rng.below(100) {
            0..=29 => self.write(),
            30..=64 => self.read(),
            65..=74 => self.map(),
            75..=84 => self.cut(),
            85..=88 => self.append(),
            89..=92 => self.seek(),
            93..=95 => self.command(),
            96..=98 => self.file = self.mount.open(0),
            _ => self.trim(),
        }
    }

    fn position(&mut self) -> u64 {
        let near = self.rng.below(200_000);
        match self.rng.below(8) {
            0 => FAR + near,
            1 => near / 8192 * 8192,
            2 => self.model.size.saturating_sub(self.rng.below(20)),
            _ => near,
        }
    }

    fn bytes(&mut self) -> Vec<u8> {
        let most = [10, 5000, 70_000][self.rng.below(3) as usize];
        let count = self.rng.below(most) as usize;
        self.rng.bytes(count)
    }

    fn write(&mut self) {
        let (position, bytes) = (self.position(), self.bytes());
        assert_eq!(self.file.write_at(&bytes, position).unwrap(), bytes.len());
        self.model.write(position, &bytes);
    }

    fn read(&mut self) {
        let position = self.position();
        let mut bytes = self.bytes();
        let done = self.file.read_at(&mut bytes, position).unwrap();
        assert!(bytes[..done] == self.model.read(position, bytes.len() as u64), "{done} bytes at {position:#x}");
    }

    /// Loads from and stores to the file through memory.
    fn map(&mut self) {
        let first = self.position() / PAGE * PAGE;
        let there = self.model.size.saturating_sub(first).min(60_000) as usize;
        if there == 0 {
            return;
        }
        let (access, shared) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
        // SAFETY: a mapping of our own, inside of the file, which nobody cuts meanwhile.
        unsafe {
            let start = libc::mmap(null_mut(), there, access, shared, self.file.as_raw_fd(), first as i64);
            assert!(start != libc::MAP_FAILED);
            let mapped = std::slice::from_raw_parts_mut(start.cast::<u8>(), there);
            assert!(mapped == self.model.read(first, there as u64), "{there} bytes mapped at {first:#x}");
            if self.rng.below(2) == 0 {
                let at = self.rng.below(there as u64) as usize;
                let bytes = self.bytes();
                let bytes = &bytes[..bytes.len().min(there - at)];
                mapped[at..][..bytes.len()].copy_from_slice(bytes);
                self.model.write(first + at as u64, bytes);
            }
            assert_eq!(libc::munmap(start, there), 0);
        }
    }

    fn cut(&mut self) {
        let size = self.position();
        if size == 0 {
            return self.trim();
        }
        self.file.set_len(size).unwrap();
        self.model.cut(size);
    }

    /// Appends, as who may read too: who only writes empties the device.
    fn append(&mut self) {
        let bytes = self.bytes();
        let only_writes = self.rng.below(4) == 0;
        let path = self.mount.device(0);
        if only_writes {
            self.model.cut(0);
        }
        let mut file = File::options().read(!only_writes).append(true).open(path).unwrap();
        file.write_all(&bytes).unwrap();
        self.model.write(self.model.size, &bytes);
    }

    /// Where data is, there is data; and none is before it.
    fn seek(&mut self) {
        let from = self.position();
        // SAFETY: only the file's position moves, and nobody uses that.
        let found = unsafe { libc::lseek(self.file.as_raw_fd(), from as i64, libc::SEEK_DATA) };
        let first = self.model.pages.range(from / PAGE..).find(|(_, bytes)| bytes.iter().any(|&byte| byte != 0));
        match (found, first) {
            (-1, first) => {
                assert!(first.is_none_or(|(page, _)| page * PAGE >= self.model.size || from >= self.model.size))
            }
            (at, Some((page, _))) => assert!(at as u64 <= (page * PAGE).max(from), "{at} {page}"),
            (_, None) => {}
        }
    }

    /// Commands change what the next trim takes over, and nothing else.
    fn command(&mut self) {
        let order = self.rng.below(4) as i32;
        assert_eq!(ioctl(&self.file, TELL_ORDER, order as usize), Ok(0));
        assert_eq!(ioctl(&self.file, QUERY_ORDER, 0), Ok(order));
        let qset = 1 + self.rng.below(7) as usize;
        assert_eq!(ioctl(&self.file, TELL_QSET, qset), Ok(0));
        assert_eq!(ioctl(&self.file, SHIFT_ORDER, 1000), Err(libc::EINVAL));
    }

    fn trim(&mut self) {
        self.mount.trim(0);
        self.model.cut(0);
    }

    /// All that is near, and what is far out, and the size.
    fn compare(&mut self) {
        assert_eq!(fs::metadata(self.mount.device(0)).unwrap().len(), self.model.size);
        for position in [0, FAR] {
            let mut bytes = vec![0; 300_000];
            let file = self.mount.open(0);
            let done = file.read_at(&mut bytes, position).unwrap();
            assert!(bytes[..done] == self.model.read(position, 300_000), "all at {position:#x}");
        }
    }
}
