//! `--selftest`: everything that a user of the device does, step by step.
//!
//! The devices are mounted by a process of their own, in a folder of their own,
//! and used through the kernel as any program would. Each step says what it did
//! and what came of it; one that fails does not stop the next.

use super::client::{self, Mapped};
use super::place;
use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use std::fmt::Display;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use vmalloc_scullv::{Command as Ioctl, How, What};

/// The exit code of a test that could not be made.
const SKIPPED: u8 = 77;
/// The file that is copied in: not a whole number of quanta.
const FILE_BYTES: usize = 1_535_135;
const QUANTUM: usize = 64 << 10;

/// Tests, and tells; the exit code.
pub fn run() -> Result<u8> {
    if let Some(obstacle) = place::obstacle() {
        println!("SKIPPED: nothing can be mounted here: {obstacle}");
        return Ok(SKIPPED);
    }
    let folder = tempfile::tempdir().context("a folder to mount in")?;
    let mut test = Test { folder: folder.path().to_owned(), failed: 0, server: None };
    test.all();
    test.stop();
    println!("{}", if test.failed == 0 { "passed" } else { "FAILED" });
    Ok(u8::from(test.failed > 0))
}

struct Test {
    folder: PathBuf,
    failed: u32,
    server: Option<Child>,
}

impl Test {
    /// Does a step and tells what came of it.
    fn step<T: Display>(&mut self, what: &str, act: impl FnOnce(&mut Test) -> Result<T>) {
        match act(self) {
            Ok(told) => println!("ok    {what}: {told}"),
            Err(why) => {
                self.failed += 1;
                println!("FAIL  {what}: {why:#}");
            }
        }
    }

    fn all(&mut self) {
        self.step("mount", Test::mount);
        if self.server.is_none() {
            return;
        }
        self.step("the folder", Test::folder);
        self.step("copy a file in", Test::copy_in);
        self.step("read it back and compare", Test::compare);
        self.step("scullvmem", |test| test.listed(0, 4, FILE_BYTES as u64, FILE_BYTES.div_ceil(QUANTUM)));
        self.step("vmallocinfo", |test| test.areas(FILE_BYTES.div_ceil(QUANTUM), 16));
        self.step("change order by ioctl", Test::change_order);
        self.step("scullvmem, not trimmed yet", |test| {
            test.listed(0, 4, FILE_BYTES as u64, FILE_BYTES.div_ceil(QUANTUM))
        });
        self.step("trim", Test::trim);
        self.step("scullvmem after the trim", |test| test.listed(0, 1, 0, 0));
        self.step("vmallocinfo after the trim", |test| test.areas(0, 16));
        self.step("write a byte again", |test| Ok(fs::write(test.device(0), "x").map(|()| "quanta are smaller now")?));
        self.step("vmallocinfo, of order 1", |test| test.areas(1, 2));
        self.step("a hole", Test::hole);
        self.step("mmap", Test::mapped);
        self.step("ioctl that is refused", Test::refused);
        self.step("unmount", Test::unmount);
    }

    fn device(&self, index: usize) -> PathBuf {
        self.folder.join(format!("scullv{index}"))
    }

    fn open(&self, index: usize) -> Result<File> {
        Ok(File::options().read(true).write(true).open(self.device(index))?)
    }

    fn mount(&mut self) -> Result<String> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["scullv", "--foreground", "--memory", "256M"]).arg(&self.folder).stdout(Stdio::piped());
        let mut server = command.stderr(Stdio::piped()).spawn()?;
        let mut line = String::new();
        BufReader::new(server.stdout.take().context("stdout")?).read_line(&mut line)?;
        if line.is_empty() {
            let mut why = String::new();
            server.stderr.take().context("stderr")?.read_to_string(&mut why)?;
            server.wait()?;
            bail!("{}", why.trim());
        }
        self.server = Some(server);
        Ok(line.trim().to_owned())
    }

    fn folder(&mut self) -> Result<String> {
        let names: Result<Vec<String>, _> =
            fs::read_dir(&self.folder)?.map(|entry| entry.map(|e| e.file_name().display().to_string())).collect();
        let mut names = names?;
        names.sort();
        let expected = ["meminfo", "scullv0", "scullv1", "scullv2", "scullv3", "scullvmem", "vmallocinfo"];
        ensure!(names == expected, "{names:?}");
        Ok(names.join(" "))
    }

    fn copy_in(&mut self) -> Result<String> {
        let from = tempfile::NamedTempFile::new()?;
        fs::write(from.path(), pattern())?;
        let bytes = fs::copy(from.path(), self.device(0))?;
        ensure!(bytes == FILE_BYTES as u64, "{bytes} bytes of {FILE_BYTES}");
        Ok(format!("{bytes} bytes"))
    }

    fn compare(&mut self) -> Result<&'static str> {
        let back = fs::read(self.device(0))?;
        ensure!(back.len() == FILE_BYTES, "{} bytes", back.len());
        ensure!(back == pattern(), "other bytes");
        Ok("the same bytes")
    }

    /// What scullvmem says of a device.
    fn listed(&mut self, index: usize, order: u32, size: u64, quanta: usize) -> Result<String> {
        let text = fs::read_to_string(self.folder.join("scullvmem"))?;
        let head = format!("Device {index}: qset 500, order {order}, sz {size}");
        let from = text.find(&head).with_context(|| format!("no {head:?} in\n{text}"))?;
        let lines: Vec<&str> = text[from..].lines().take_while(|line| !line.is_empty()).collect();
        ensure!(lines.len() == 2 + quanta, "{} lines:\n{text}", lines.len());
        ensure!(lines[1].starts_with("  item at "), "{:?}", lines[1]);
        Ok(shortened(&lines))
    }

    /// The quanta that vmallocinfo lists: so many, of so many pages each.
    fn areas(&mut self, count: usize, pages: usize) -> Result<String> {
        let text = fs::read_to_string(self.folder.join("vmallocinfo"))?;
        let wanted = format!(" pages={pages} vmalloc");
        let (of_size, others): (Vec<&str>, Vec<&str>) = text.lines().partition(|line| line.contains(&wanted));
        ensure!(of_size.len() == count && others.is_empty(), "not {count} areas of {pages} pages:\n{text}");
        Ok(if count == 0 { "no area is left".into() } else { shortened(&of_size) })
    }

    fn change_order(&mut self) -> Result<String> {
        let device = self.open(0)?;
        let of = |how| Ioctl::Of(What::Order, how);
        ensure!(client::order(&device)? == 4, "the order was not 4");
        client::by_value(&device, of(How::Tell), 3)?;
        ensure!(client::by_value(&device, of(How::Shift), 2)? == 3, "a shift did not tell the old order");
        ensure!(client::through(&device, of(How::Exchange), 0)? == 2, "an exchange did not tell the old order");
        client::through(&device, of(How::Set), 1)?;
        ensure!(client::through(&device, of(How::Get), -1)? == 1 && client::order(&device)? == 1, "it is not 1");
        Ok("from 4 to 1, told, shifted, exchanged and set".into())
    }

    fn trim(&mut self) -> Result<&'static str> {
        File::options().write(true).open(self.device(0))?;
        ensure!(fs::metadata(self.device(0))?.len() == 0, "the device is not empty");
        Ok("opened for writing only, the device is empty")
    }

    fn hole(&mut self) -> Result<String> {
        let (device, far) = (self.open(1)?, 1 << 40);
        device.write_all_at(b"far", far)?;
        let mut start = [1; 100];
        let there = device.read_at(&mut start, far - 50)?;
        ensure!(there == 53 && start[..50] == [0; 50] && start[50..53] == *b"far", "no zeros, or no bytes");
        let meta = fs::metadata(self.device(1))?;
        ensure!(meta.len() == far + 3 && meta.blocks() < 1000, "{} blocks", meta.blocks());
        Ok(format!("{} bytes, of which {} KiB are held", meta.len(), meta.blocks() / 2))
    }

    fn mapped(&mut self) -> Result<&'static str> {
        let device = self.open(2)?;
        device.write_all_at(&[7; 300_000], 0)?;
        let mapping = Mapped::new(&device, 300_000)?;
        ensure!(mapping.load(0) == 7 && mapping.load(299_999) == 7, "other bytes in the mapping");
        mapping.store(123_456, 9);
        drop(mapping);
        ensure!(fs::read(self.device(2))?[123_455..123_458] == [7, 9, 7], "what was stored is not there");
        Ok("what was written is seen, what is stored is read")
    }

    fn refused(&mut self) -> Result<&'static str> {
        let device = self.open(0)?;
        let order = |how| Ioctl::Of(What::Order, how);
        expect(libc::EINVAL, client::by_value(&device, order(How::Tell), -1))?;
        expect(libc::EINVAL, client::through(&device, order(How::Exchange), 1000))?;
        expect(libc::ENOTTY, client::by_value(&File::open(self.folder.join("scullvmem"))?, order(How::Query), 0))?;
        ensure!(client::order(&device)? == 1, "it has changed something");
        Ok("EINVAL, ENOTTY, and nothing has changed")
    }

    fn unmount(&mut self) -> Result<String> {
        let Some(mut server) = self.server.take() else { bail!("nothing serves") };
        end(&server, Signal::TERM)?;
        let mut said = String::new();
        server.stderr.take().context("stderr")?.read_to_string(&mut said)?;
        let status = server.wait()?;
        ensure!(status.success(), "{status}: {said}");
        ensure!(is_empty(&self.folder)?, "something is mounted still");
        Ok(said.trim().to_owned())
    }

    /// Whatever went wrong, nothing stays mounted.
    fn stop(&mut self) {
        let Some(mut server) = self.server.take() else { return };
        let gone = server.kill().and_then(|()| server.wait());
        let away = place::detach(&self.folder);
        println!("FAIL  what served was ended: {gone:?}, {away:?}");
    }
}

fn end(server: &Child, signal: Signal) -> Result<()> {
    let id = Pid::from_raw(server.id() as i32).context("a process")?;
    Ok(kill_process(id, signal)?)
}

fn is_empty(folder: &Path) -> Result<bool> {
    Ok(fs::read_dir(folder)?.next().is_none())
}

fn expect(errno: i32, result: std::io::Result<i32>) -> Result<()> {
    match result {
        Err(why) if why.raw_os_error() == Some(errno) => Ok(()),
        other => bail!("not error {errno}: {other:?}"),
    }
}

/// Bytes of which none is where it is by chance.
fn pattern() -> Vec<u8> {
    (0..FILE_BYTES as u64).map(|at| (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect()
}

/// The first of many lines, below each other.
fn shortened(lines: &[&str]) -> String {
    let shown = 3;
    let first = lines.iter().take(shown).map(|line| format!("\n        {line}"));
    let rest = lines.len().saturating_sub(shown);
    let more = (rest > 0).then(|| format!("\n        ... and {rest} more lines"));
    first.chain(more).collect()
}
