//! Mounting.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Commands, by the numbers of the original header.
pub const RESET: u32 = 0x4b00;
pub const SET_ORDER: u32 = 0x4004_4b01;
pub const TELL_ORDER: u32 = 0x4b02;
pub const GET_ORDER: u32 = 0x8004_4b03;
pub const QUERY_ORDER: u32 = 0x4b04;
pub const EXCHANGE_ORDER: u32 = 0xc004_4b05;
pub const SHIFT_ORDER: u32 = 0x4b06;
pub const TELL_QSET: u32 = 0x4b08;
pub const QUERY_QSET: u32 = 0x4b0a;

const PATIENCE: Duration = Duration::from_secs(60);

/// Devices that are mounted in a folder of their own; unmounted when dropped.
pub struct Mount {
    pub folder: PathBuf,
    server: Child,
}

pub fn vmalloc() -> Command {
    Command::new(env!("CARGO_BIN_EXE_vmalloc"))
}

/// A folder for a test, empty and not mounted on.
pub fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("scullv-{name}"));
    // Of an earlier run.
    let _ = Command::new("umount").args(["-l"]).arg(&folder).stderr(Stdio::null()).status();
    fs::create_dir_all(&folder).unwrap();
    folder
}

/// Mounts; `None`, with a word, where that cannot be done.
pub fn mount(name: &str, args: &[&str]) -> Option<Mount> {
    serve(folder(name), args)
}

pub fn serve(folder: PathBuf, args: &[&str]) -> Option<Mount> {
    let mut command = vmalloc();
    command.args(["scullv", "--foreground"]).arg(&folder).args(args).stdout(Stdio::piped());
    let mut server = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    io::BufRead::read_line(&mut io::BufReader::new(server.stdout.take().unwrap()), &mut line).unwrap();
    if line.is_empty() {
        let said = text(server.wait_with_output().unwrap().stderr);
        assert!(said.contains("nothing can be mounted here"), "{said}");
        eprintln!("SKIPPED: {}", said.trim());
        return None;
    }
    Some(Mount { folder, server })
}

impl Mount {
    pub fn device(&self, index: usize) -> PathBuf {
        self.folder.join(format!("scullv{index}"))
    }

    /// Opened for reading and writing: as it is.
    pub fn open(&self, index: usize) -> File {
        File::options().read(true).write(true).open(self.device(index)).unwrap()
    }

    /// Opened for writing only: emptied.
    pub fn trim(&self, index: usize) {
        File::options().write(true).open(self.device(index)).unwrap();
    }

    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.folder.join(name)).unwrap()
    }

    /// Areas that the instance has, by its listing.
    pub fn areas(&self) -> Vec<String> {
        self.read("vmallocinfo").lines().map(str::to_owned).collect()
    }

    pub fn signal(&self, signal: i32) {
        // SAFETY: the server is ours, and has not been waited for.
        assert_eq!(unsafe { libc::kill(self.server.id() as i32, signal) }, 0);
    }

    /// Bytes of the server's memory that hold what was written to devices, and its tables.
    pub fn shared_memory(&self) -> usize {
        let status = fs::read_to_string(format!("/proc/{}/status", self.server.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("RssShmem:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() << 10
    }

    pub fn is_alive(&mut self) -> bool {
        self.server.try_wait().unwrap().is_none()
    }

    /// Kills the server, as the kernel does when memory runs out.
    pub fn kill(mut self) {
        self.server.kill().unwrap();
        self.server.wait().unwrap();
    }

    /// Ends the server by this signal: its exit code, and what it said.
    pub fn end(mut self, signal: i32) -> (Option<i32>, String) {
        self.signal(signal);
        let mut said = String::new();
        io::Read::read_to_string(&mut self.server.stderr.take().unwrap(), &mut said).unwrap();
        (self.server.wait().unwrap().code(), said)
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if self.server.try_wait().unwrap().is_none() {
            let _ = Command::new("umount").args(["-l"]).arg(&self.folder).stderr(Stdio::null()).status();
            let _ = self.server.kill();
            let _ = self.server.wait();
        }
    }
}

/// Waits until something is so.
pub fn until(what: &str, mut so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !so() {
        assert!(start.elapsed() < PATIENCE, "{what}");
        sleep(Duration::from_millis(20));
    }
}

/// A program that has to succeed; what it printed.
pub fn run(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.output().unwrap();
    assert!(status.success(), "{command:?}: {status}\n{}{}", text(stdout), text(stderr));
    text(stdout)
}

/// A line for the shell that has to succeed.
pub fn sh(line: &str) -> String {
    run(Command::new("sh").args(["-euc", line]))
}

pub fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap()
}

/// Whether a program is there to be run.
pub fn has(program: &str) -> bool {
    let there = Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success());
    if !there {
        eprintln!("SKIPPED: no {program}");
    }
    there
}

/// ioctl with any argument; the result, or the error's number.
pub fn ioctl(file: &File, command: u32, argument: usize) -> Result<i32, i32> {
    // SAFETY: the kernel checks what the tests pass for addresses.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), command.into(), argument) };
    if result < 0 { Err(io::Error::last_os_error().raw_os_error().unwrap()) } else { Ok(result) }
}

/// ioctl with a pointer to a number; the number afterwards.
pub fn through(file: &File, command: u32, mut number: i32) -> (Result<i32, i32>, i32) {
    let result = ioctl(file, command, (&raw mut number).expose_provenance());
    (result, number)
}

/// Numbers that look random and are the same in each run.
pub struct Rng(pub u64);

impl Rng {
    /// Source: Vigna, splitmix64.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count.div_ceil(8)).flat_map(|_| self.next().to_le_bytes()).take(count).collect()
    }
}

/// What the environment says about a length, or what suits `cargo test`.
pub fn set_or(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().unwrap())
}
