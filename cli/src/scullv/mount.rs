//! The mount: a folder of devices and of listings.
//!
//! Devices go through the page cache, so that they can be mapped. Listings are
//! made when they are opened, and read past the cache.
//!
//! Where the device and the page cache see things differently:
//!
//! - Whole reads and writes, and zeros for holes: `transfer`.
//! - Who opens for writing only trims, which the kernel does not know. It is told
//!   to forget the size, and asked to look for a new one before it reads: short
//!   answers alone do not tell it, where two of them overtake each other.
//! - It does not look before it appends. So a file that is open for appending
//!   only bypasses the cache, and is appended to here.
//! - FUSE tells of no mappings: the count of mappings stays 0 here, and a
//!   device that somebody has mapped can be trimmed under them.

use super::argument;
use super::served::Served;
use super::times::Stamp;
use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, InitFlags, IoctlFlags,
    KernelConfig, LockOwner, Notifier, OpenAccMode, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, Request,
    TimeOrNow, WriteFlags,
};
use parking_lot::Mutex;
use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};
use vmalloc::machine::Machine;
use vmalloc::machine::frames::Frames;
use vmalloc::units::PAGE_SIZE;
use vmalloc_scullv::{Access, Error};

/// What the kernel sends and wants in one request.
const TRANSFER: u32 = 1 << 20;
/// Names never change.
const NAMES: Duration = Duration::from_secs(3600);
/// Sizes do when the kernel knows it, or is told.
const ATTRIBUTES: Duration = Duration::from_secs(1);
/// Listings have none, and their times are now.
const FLEETING: Duration = Duration::ZERO;
/// An offset that names attributes alone.
const NO_PAGES: i64 = -1;
/// Bytes in a block, as `stat` counts them.
const BLOCK: u64 = 512;
/// `_IOC_SIZE`.
const SIZE_OF_COMMAND: u32 = 0x3fff << 16;

const TEXTS: [Text; 3] = [Text::Scullvmem, Text::Vmallocinfo, Text::Meminfo];
const FIRST_TEXT: u64 = 2;
const FIRST_DEVICE: u64 = FIRST_TEXT + TEXTS.len() as u64;

/// A listing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Text {
    Scullvmem,
    Vmallocinfo,
    Meminfo,
}

/// What is in the mount.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Node {
    Root,
    Text(Text),
    Device(usize),
}

impl Text {
    fn name(self) -> &'static str {
        match self {
            Text::Scullvmem => "scullvmem",
            Text::Vmallocinfo => "vmallocinfo",
            Text::Meminfo => "meminfo",
        }
    }

    fn write(self, served: &Served) -> String {
        match self {
            Text::Scullvmem => served.scullvmem(),
            Text::Vmallocinfo => served.vmallocinfo(),
            Text::Meminfo => served.meminfo(),
        }
    }
}

impl Node {
    fn ino(self) -> INodeNo {
        match self {
            Node::Root => INodeNo::ROOT,
            Node::Text(text) => INodeNo(FIRST_TEXT + text as u64),
            Node::Device(index) => INodeNo(FIRST_DEVICE + index as u64),
        }
    }

    fn name(self) -> String {
        match self {
            Node::Root => ".".into(),
            Node::Text(text) => text.name().into(),
            Node::Device(index) => format!("scullv{index}"),
        }
    }

    /// How long its attributes may be remembered.
    fn lasts(self) -> Duration {
        if let Node::Device(_) = self { ATTRIBUTES } else { FLEETING }
    }

    fn kind(self) -> FileType {
        if self == Node::Root { FileType::Directory } else { FileType::RegularFile }
    }
}

/// The file system.
pub struct Mount {
    served: Arc<Served>,
    /// Listings that are open, as they were when they were opened.
    open: Mutex<HashMap<u64, Arc<str>>>,
    opened: AtomicU64,
    owner: (u32, u32),
    since: SystemTime,
    /// Who opens for writing only does not empty a device.
    keeps: bool,
    kernel: Arc<OnceLock<Notifier>>,
}

thread_local! {
    /// What a read is put together in.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

fn number(error: Error) -> Errno {
    Errno::from_i32(error.errno())
}

impl Mount {
    /// A file system of these devices. Where it `keeps`, opening for writing empties none.
    pub fn new(served: Arc<Served>, keeps: bool) -> Mount {
        let owner = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
        let (open, opened, since) = (Mutex::default(), AtomicU64::new(1), SystemTime::now());
        Mount { served, open, opened, owner, since, keeps, kernel: Arc::default() }
    }

    /// Where to put the way to the kernel, once there is one.
    pub fn kernel(&self) -> Arc<OnceLock<Notifier>> {
        self.kernel.clone()
    }

    fn nodes(&self) -> impl Iterator<Item = Node> {
        let devices = (0..self.served.devices().len()).map(Node::Device);
        [Node::Root].into_iter().chain(TEXTS.map(Node::Text)).chain(devices)
    }

    fn node(&self, ino: INodeNo) -> Result<Node, Errno> {
        self.nodes().find(|node| node.ino() == ino).ok_or(Errno::ENOENT)
    }

    fn device(&self, ino: INodeNo) -> Result<usize, Errno> {
        match self.node(ino)? {
            Node::Device(index) => Ok(index),
            Node::Text(_) => Err(Errno::EACCES),
            Node::Root => Err(Errno::EISDIR),
        }
    }

    fn attributes(&self, node: Node) -> FileAttr {
        let (mut size, mut held) = (0, 0);
        let times = match node {
            Node::Root => Stamp::all(self.since),
            Node::Text(_) => Stamp::all(SystemTime::now()),
            Node::Device(index) => self.served.times(index).stamp(),
        };
        if let Node::Device(index) = node {
            let status = self.served.devices()[index].status();
            (size, held) = (status.size, (status.pages * PAGE_SIZE) as u64);
        }
        FileAttr {
            ino: node.ino(),
            size,
            blocks: held / BLOCK,
            atime: times.accessed,
            mtime: times.modified,
            ctime: times.changed,
            crtime: self.since,
            kind: node.kind(),
            perm: match node {
                Node::Root => 0o555,
                Node::Text(_) => 0o444,
                Node::Device(index) => self.served.mode(index) as u16,
            },
            nlink: if node == Node::Root { 2 } else { 1 },
            uid: self.owner.0,
            gid: self.owner.1,
            rdev: 0,
            blksize: TRANSFER,
            flags: 0,
        }
    }

    fn open_text(&self, text: Text, flags: OpenFlags) -> Result<u64, Errno> {
        if flags.acc_mode() != OpenAccMode::O_RDONLY {
            return Err(Errno::EACCES);
        }
        let handle = self.opened.fetch_add(1, Relaxed);
        self.open.lock().insert(handle, text.write(&self.served).into());
        Ok(handle)
    }

    fn open_device(&self, index: usize, flags: OpenFlags) -> Result<FopenFlags, Errno> {
        let access = match flags.acc_mode() {
            OpenAccMode::O_RDONLY => Access::ReadOnly,
            // The device itself empties with any open for writing only.
            OpenAccMode::O_WRONLY if self.keeps => Access::ReadWrite,
            OpenAccMode::O_WRONLY => Access::WriteOnly,
            OpenAccMode::O_RDWR => Access::ReadWrite,
        };
        self.served.open(index, access).map_err(number)?;
        if access == Access::WriteOnly {
            self.forget_size(index);
        }
        Ok(if appends(flags) { FopenFlags::FOPEN_DIRECT_IO } else { FopenFlags::empty() })
    }

    /// Makes the kernel ask for the attributes of a device before it uses them.
    fn forget_size(&self, index: usize) {
        let told = self.kernel.get().map(|kernel| kernel.inval_inode(Node::Device(index).ino(), NO_PAGES, 0));
        debug_assert!(told.is_none_or(|told| told.is_ok()), "the kernel knows what is open");
    }

    fn opened(&self, ino: INodeNo, flags: OpenFlags) -> Result<(u64, FopenFlags), Errno> {
        match self.node(ino)? {
            Node::Root => Err(Errno::EISDIR),
            Node::Text(text) => Ok((self.open_text(text, flags)?, FopenFlags::FOPEN_DIRECT_IO)),
            Node::Device(index) => Ok((0, self.open_device(index, flags)?)),
        }
    }

    fn command(&self, ino: INodeNo, cmd: u32, data: &[u8], out_size: u32) -> Result<(i32, Vec<u8>), Errno> {
        let Ok(Node::Device(index)) = self.node(ino) else { return Err(Errno::ENOTTY) };
        // The kernel has fetched what a pointer points to, and takes back what it is to point to.
        let mut memory = data.to_vec();
        memory.resize(data.len().max(out_size as usize), 0);
        let argument = match cmd & SIZE_OF_COMMAND {
            0 => argument::of(cmd, data, out_size).ok_or(Errno::EIO)? as usize,
            _ => 0,
        };
        let result = self.served.ioctl(index, cmd, argument, &mut memory).map_err(number)?;
        memory.truncate(out_size as usize);
        Ok((result, memory))
    }

    fn seek(&self, ino: INodeNo, offset: i64, whence: i32) -> Result<u64, Errno> {
        let device = &self.served.devices()[self.device(ino)?];
        let offset = u64::try_from(offset).map_err(|_| Errno::EINVAL)?;
        let found = match whence {
            libc::SEEK_DATA => device.next_data(offset),
            libc::SEEK_HOLE => device.next_hole(offset),
            _ => return Err(Errno::EINVAL),
        };
        found.ok_or(Errno::ENXIO)
    }
}

/// Whether a file is open for appending, and for nothing else.
fn appends(flags: OpenFlags) -> bool {
    flags.acc_mode() == OpenAccMode::O_WRONLY && flags.0 & libc::O_APPEND != 0
}

fn time(of: TimeOrNow) -> SystemTime {
    match of {
        TimeOrNow::SpecificTime(time) => time,
        TimeOrNow::Now => SystemTime::now(),
    }
}

impl Filesystem for Mount {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // Older kernels than 3.10 cannot.
        let _ = config.add_capabilities(InitFlags::FUSE_AUTO_INVAL_DATA);
        // What the kernel allows at most is as good.
        let _ = config.set_max_write(TRANSFER);
        let _ = config.set_max_readahead(TRANSFER).or_else(|most| config.set_max_readahead(most));
        Ok(())
    }

    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let named = self.nodes().skip(1).find(|node| parent == INodeNo::ROOT && *node.name() == *name);
        match named {
            Some(node) => reply.entry_with_ttls(&node.lasts(), &NAMES, &self.attributes(node), Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        match self.node(ino) {
            Ok(node) => reply.attr(&node.lasts(), &self.attributes(node)),
            Err(errno) => reply.error(errno),
        }
    }

    fn setattr(
        &self,
        _req: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let set = || {
            let index = self.device(ino)?;
            let gives_away = |id: Option<u32>, owner: u32| id.is_some_and(|id| id != owner);
            if gives_away(uid, self.owner.0) || gives_away(gid, self.owner.1) {
                return Err(Errno::EPERM);
            }
            size.map_or(Ok(()), |size| self.served.truncate(index, size)).map_err(number)?;
            mode.into_iter().for_each(|mode| self.served.set_mode(index, mode));
            self.served.times(index).set(atime.map(time), mtime.map(time));
            Ok(self.attributes(Node::Device(index)))
        };
        match set() {
            Ok(attributes) => reply.attr(&ATTRIBUTES, &attributes),
            Err(errno) => reply.error(errno),
        }
    }

    fn open(&self, _req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        match self.opened(ino, flags) {
            Ok((handle, how)) => reply.opened(FileHandle(handle), how),
            Err(errno) => reply.error(errno),
        }
    }

    fn read(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let text = self.open.lock().get(&fh.0).cloned();
        if let Some(text) = text {
            let start = (offset as usize).min(text.len());
            let end = (start + size as usize).min(text.len());
            return reply.data(&text.as_bytes()[start..end]);
        }
        BUFFER.with_borrow_mut(|buffer| {
            buffer.resize(buffer.len().max(size as usize), 0);
            let bytes = &mut buffer[..size as usize];
            match self.device(ino).and_then(|index| self.served.read(index, offset, bytes).map_err(number)) {
                Ok(done) => reply.data(&bytes[..done]),
                Err(errno) => reply.error(errno),
            }
        });
    }

    fn write(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        data: &[u8],
        how: WriteFlags,
        flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let written = self.device(ino).and_then(|index| {
            let at = if appends(flags) { self.served.devices()[index].status().size } else { offset };
            self.served.write(index, at, data, how.contains(WriteFlags::FUSE_WRITE_CACHE)).map_err(number)
        });
        match written {
            Ok(done) => reply.written(done as u32),
            Err(errno) => reply.error(errno),
        }
    }

    fn release(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.open.lock().remove(&fh.0);
        reply.ok();
    }

    fn readdir(&self, _req: &Request, ino: INodeNo, _fh: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        if ino != INodeNo::ROOT {
            return reply.error(Errno::ENOTDIR);
        }
        let above = (Node::Root, "..".to_owned());
        let mut names: Vec<(Node, String)> = self.nodes().map(|node| (node, node.name())).collect();
        names.insert(1, above);
        for (at, (node, name)) in names.into_iter().enumerate().skip(offset as usize) {
            if reply.add(node.ino(), at as u64 + 1, node.kind(), name) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        let total = self.served.vm().machine().frames().total() as u64;
        let free = (self.served.room() / PAGE_SIZE) as u64;
        let files = self.nodes().count() as u64;
        reply.statfs(total, free, free, files, 0, PAGE_SIZE as u32, 255, PAGE_SIZE as u32);
    }

    fn lseek(&self, _req: &Request, ino: INodeNo, _fh: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        match self.seek(ino, offset, whence) {
            Ok(at) => reply.offset(at as i64),
            Err(errno) => reply.error(errno),
        }
    }

    fn ioctl(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        _flags: IoctlFlags,
        cmd: u32,
        in_data: &[u8],
        out_size: u32,
        reply: ReplyIoctl,
    ) {
        match self.command(ino, cmd, in_data, out_size) {
            Ok((result, memory)) => reply.ioctl(result, &memory),
            Err(errno) => reply.error(errno),
        }
    }

    /// Bytes that came by a mapping may have been lost, and their program was not told then.
    fn fsync(&self, _r: &Request, ino: INodeNo, _fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        match self.device(ino).map(|index| self.served.lost(index)) {
            Ok(Some(number)) => reply.error(Errno::from_i32(number)),
            Ok(None) | Err(_) => reply.ok(),
        }
    }

    fn fallocate(
        &self,
        _r: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        const PUNCH: i32 = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        let done = self.device(ino).and_then(|index| match mode {
            PUNCH => {
                self.served.punch(index, offset, length);
                Ok(())
            }
            0 | libc::FALLOC_FL_KEEP_SIZE => self.served.reserve(index, offset, length, mode == 0).map_err(number),
            _ => Err(Errno::EOPNOTSUPP),
        });
        match done {
            Ok(()) => reply.ok(),
            Err(errno) => reply.error(errno),
        }
    }

    // The devices are all that there is.

    fn create(&self, _r: &Request, _p: INodeNo, _n: &OsStr, _mode: u32, _umask: u32, _flags: i32, reply: ReplyCreate) {
        reply.error(Errno::EPERM);
    }

    fn mkdir(&self, _r: &Request, _p: INodeNo, _n: &OsStr, _mode: u32, _umask: u32, reply: ReplyEntry) {
        reply.error(Errno::EPERM);
    }

    fn unlink(&self, _r: &Request, _p: INodeNo, _n: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::EPERM);
    }

    fn rmdir(&self, _r: &Request, _p: INodeNo, _n: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::EPERM);
    }

    fn mknod(&self, _r: &Request, _p: INodeNo, _n: &OsStr, _mode: u32, _umask: u32, _rdev: u32, reply: ReplyEntry) {
        reply.error(Errno::EPERM);
    }

    fn rename(
        &self,
        _r: &Request,
        _p: INodeNo,
        _n: &OsStr,
        _to: INodeNo,
        _name: &OsStr,
        _flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::EPERM);
    }
}
