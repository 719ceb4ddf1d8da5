//! `vmalloc bench scullv`: what goes through the mounted device in a second.
//!
//! As `dd` does: a file is written from its start to its end in blocks of one
//! size, then opened again and read. Beside the device stand a file of tmpfs,
//! which has no server, and the mount of [`loopback`], which has
//! one that does nothing but copy. All three are served and used by this process.

use super::loopback::{self, Loopback};
use super::write_json;
use crate::options::scullv::ScullvBench;
use crate::report::table::{bytes, grouped, numbers};
use crate::scullv::{config, mounted, place};
use anyhow::{Context, Result, bail, ensure};
use fuser::{BackgroundSession, Session};
use rustix::fs::statfs;
use serde::Serialize;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;
use tempfile::TempDir;

const BLOCKS: [usize; 3] = [4 << 10, 64 << 10, 1 << 20];
const TMPFS: &str = "/dev/shm";
/// Source: statfs(2).
const TMPFS_MAGIC: u64 = 0x0102_1994;
const MIB: f64 = (1 << 20) as f64;

/// A file to write and to read, and what keeps it there.
struct Target {
    name: &'static str,
    file: PathBuf,
    session: Option<BackgroundSession>,
    _folder: TempDir,
}

/// What one block size brought, in MiB a second.
#[derive(Debug, Serialize)]
struct Speed {
    target: &'static str,
    block: usize,
    write: u64,
    read: u64,
}

/// Measures, and writes the table.
pub fn run(options: &ScullvBench, out: &mut String) -> Result<()> {
    if let Some(obstacle) = place::obstacle() {
        bail!("nothing can be mounted here: {obstacle}");
    }
    let mut speeds = Vec::new();
    for target in targets(options)? {
        for block in BLOCKS {
            speeds.push(measure(&target, block, options)?);
        }
        target.close()?;
    }
    writeln!(
        out,
        "{}\nMiB a second, {} a file, the best of {}. Written in blocks of the size named, then opened anew and read.",
        table(&speeds),
        bytes(options.size),
        options.rounds
    )?;
    if let Some(path) = &options.json {
        write_json(path, &speeds)?;
    }
    Ok(())
}

/// The device, the mount that does nothing else, and tmpfs if it is here.
fn targets(options: &ScullvBench) -> Result<Vec<Target>> {
    let memory = usize::try_from(options.size + options.size / 4 + (64 << 20))?;
    let mut targets = vec![
        Target::mount("scullv", "scullv0", |folder| mounted(folder, memory))?,
        Target::mount("FUSE loopback", loopback::NAME, |folder| {
            Ok(Session::new(Loopback::default(), folder, &config())?.spawn()?)
        })?,
    ];
    if statfs(TMPFS).is_ok_and(|found| found.f_type as u64 == TMPFS_MAGIC) {
        let folder = tempfile::tempdir_in(TMPFS)?;
        let file = folder.path().join("file");
        File::create(&file)?;
        targets.push(Target { name: "tmpfs", file, session: None, _folder: folder });
    }
    Ok(targets)
}

impl Target {
    fn mount(name: &'static str, file: &str, mount: impl FnOnce(&Path) -> Result<BackgroundSession>) -> Result<Target> {
        let folder = tempfile::tempdir()?;
        let session = mount(folder.path()).with_context(|| format!("{name} cannot be mounted"))?;
        Ok(Target { name, file: folder.path().join(file), session: Some(session), _folder: folder })
    }

    fn close(self) -> Result<()> {
        let ended = self.session.map_or(Ok(()), BackgroundSession::umount_and_join);
        ended.with_context(|| format!("{} cannot be unmounted", self.name))
    }
}

fn measure(target: &Target, block: usize, options: &ScullvBench) -> Result<Speed> {
    let size = options.size / block as u64 * block as u64;
    let (mut write, mut read) = (0, 0);
    for _ in 0..options.rounds {
        let (start, mut file) = (Instant::now(), File::options().write(true).truncate(true).open(&target.file)?);
        let bytes = vec![0x5a; block];
        for _ in 0..size / block as u64 {
            file.write_all(&bytes)?;
        }
        drop(file);
        write = write.max(speed(size, start));
        read = read.max(read_all(&target.file, block, size)?);
    }
    Ok(Speed { target: target.name, block, write, read })
}

fn read_all(path: &Path, block: usize, size: u64) -> Result<u64> {
    let (start, mut file, mut bytes, mut done) = (Instant::now(), File::open(path)?, vec![0; block], 0);
    loop {
        match file.read(&mut bytes)? {
            0 => break,
            some => done += some as u64,
        }
    }
    ensure!(done == size && bytes[0] == 0x5a, "{done} bytes of {size} came back");
    Ok(speed(size, start))
}

fn speed(size: u64, start: Instant) -> u64 {
    (size as f64 / MIB / start.elapsed().as_secs_f64()) as u64
}

fn table(speeds: &[Speed]) -> comfy_table::Table {
    let titles: Vec<String> = ["write", "read"]
        .iter()
        .flat_map(|what| BLOCKS.map(|block| format!("{what} {}", bytes(block as u64))))
        .collect();
    let titles: Vec<&str> = ["file"].into_iter().chain(titles.iter().map(String::as_str)).collect();
    let mut table = numbers(&titles, 2 * BLOCKS.len());
    for rows in speeds.chunks(BLOCKS.len()) {
        let figures = rows.iter().map(|speed| speed.write).chain(rows.iter().map(|speed| speed.read));
        table.add_row([rows[0].target.to_owned()].into_iter().chain(figures.map(grouped)));
    }
    table
}
