//! A mount that does as little as one can: a single file, which is a vector.
//!
//! What the mounted device costs more than this is the device's own; what both
//! cost is the way through the kernel and back.

use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, Generation, INodeNo, KernelConfig, LockOwner, OpenFlags,
    ReplyAttr, ReplyData, ReplyEntry, ReplyWrite, Request, TimeOrNow, WriteFlags,
};
use parking_lot::RwLock;
use std::ffi::OsStr;
use std::io;
use std::time::{Duration, SystemTime};

/// The name of its file.
pub const NAME: &str = "file";

const FILE: INodeNo = INodeNo(2);
const TRANSFER: u32 = 1 << 20;

/// The file's bytes.
#[derive(Default)]
pub struct Loopback(RwLock<Vec<u8>>);

impl Loopback {
    fn attributes(&self, ino: INodeNo) -> FileAttr {
        let (now, file) = (SystemTime::UNIX_EPOCH, ino == FILE);
        FileAttr {
            ino,
            size: if file { self.0.read().len() as u64 } else { 0 },
            blocks: 0,
            atime: now,
            mtime: now,
            ctime: now,
            crtime: now,
            kind: if file { FileType::RegularFile } else { FileType::Directory },
            perm: 0o777,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: TRANSFER,
            flags: 0,
        }
    }
}

impl Filesystem for Loopback {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let _ = config.set_max_write(TRANSFER);
        let _ = config.set_max_readahead(TRANSFER).or_else(|most| config.set_max_readahead(most));
        Ok(())
    }

    fn lookup(&self, _req: &Request, _parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if name == NAME {
            reply.entry(&Duration::ZERO, &self.attributes(FILE), Generation(0));
        } else {
            reply.error(Errno::ENOENT);
        }
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&Duration::ZERO, &self.attributes(ino));
    }

    fn setattr(
        &self,
        _req: &Request,
        ino: INodeNo,
        _mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        if size == Some(0) {
            *self.0.write() = Vec::new();
        }
        reply.attr(&Duration::ZERO, &self.attributes(ino));
    }

    fn read(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let bytes = self.0.read();
        let start = bytes.len().min(offset as usize);
        reply.data(&bytes[start..bytes.len().min(start + size as usize)]);
    }

    fn write(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let (mut bytes, end) = (self.0.write(), offset as usize + data.len());
        if bytes.len() < end {
            bytes.resize(end, 0);
        }
        bytes[offset as usize..end].copy_from_slice(data);
        reply.written(data.len() as u32);
    }
}
