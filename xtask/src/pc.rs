//! The stage `pc`: the bare image in QEMU, on machines of several kinds.
//!
//! A boot is right if QEMU ends with the code that is expected, and says what
//! is expected: 33 where all tests passed, 35 where a rule was broken on
//! purpose and has to be noticed, 37 where the image is to die with a report.

use crate::project::{IMAGE, MEASURED, Project};
use crate::steps::{Outcome, succeed};
use anyhow::{Context, Result, bail, ensure};
use std::ffi::OsStr;
use std::io::Read;
use std::iter;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

const QEMU: &str = "qemu-system-x86_64";
/// The command's exit code where it cannot do what it is asked.
const UNUSABLE: i32 = 2;
/// How long a boot may take.
const PATIENCE: Duration = Duration::from_secs(240);
/// Machines that run at the same time: more than half of a boot is waiting for ticks.
const AT_ONCE: usize = 3;

const PASSED: i32 = 33;
const FAILED: i32 = 35;
const DIED: i32 = 37;

/// A machine, what it runs, and how that has to end.
struct Boot {
    machine: &'static [&'static str],
    /// The image's command line, which need not be text.
    line: &'static [u8],
    code: i32,
    says: &'static [&'static str],
}

const fn tests(machine: &'static [&'static str], line: &'static str) -> Boot {
    Boot { machine, line: line.as_bytes(), code: PASSED, says: &[" tests were right"] }
}

const fn crash(line: &'static str, says: &'static [&'static str]) -> Boot {
    Boot { machine: &["-smp", "2"], line: line.as_bytes(), code: DIED, says }
}

/// A line that is not obeyed.
const fn refused(line: &'static [u8], says: &'static [&'static str]) -> Boot {
    Boot { machine: &["-smp", "1"], line, code: DIED, says }
}

const TWO_NODES: &[&str] = &[
    "-smp",
    "4",
    "-m",
    "512",
    "-object",
    "memory-backend-ram,id=a,size=256M",
    "-object",
    "memory-backend-ram,id=b,size=256M",
    "-numa",
    "node,cpus=0-1,memdev=a",
    "-numa",
    "node,cpus=2-3,memdev=b",
];

/// 64 GiB, of which the host gives what is touched.
const LARGEST: &[&str] = &[
    "-smp",
    "4",
    "-m",
    "64G",
    "-object",
    "memory-backend-ram,id=all,size=64G,reserve=off",
    "-M",
    "q35,memory-backend=all",
];

const BOOTS: &[Boot] = &[
    // The longest first, so that the others run beside it.
    tests(&["-smp", "4"], "stress=30 -- tests"),
    tests(&["-smp", "1"], "-- tests"),
    tests(&["-smp", "2"], "-- tests"),
    tests(&["-smp", "8"], "-- tests"),
    tests(&["-smp", "2"], "policy=strict -- tests"),
    tests(&["-smp", "4"], "policy=park -- tests"),
    tests(&["-smp", "2"], "policy=keep -- tests"),
    tests(&["-smp", "2"], "placement=lowest region=1G -- tests"),
    tests(&["-smp", "2"], "placement=lowest -- tests every"),
    tests(&["-smp", "2"], "pge=off -- tests"),
    tests(&["-smp", "2", "-cpu", "max,la57=off,pge=off"], "-- tests"),
    tests(&["-smp", "4", "-cpu", "qemu64"], "-- tests"),
    tests(&["-smp", "2"], "region=64M -- tests"),
    tests(&["-smp", "2", "-cpu", "max,la57=on"], "-- tests"),
    tests(TWO_NODES, "-- tests"),
    tests(&["-smp", "2", "-M", "microvm"], "-- tests"),
    tests(&["-smp", "8", "-m", "64"], "-- tests"),
    tests(&["-smp", "2", "-m", "4G"], "-- tests"),
    tests(&["-smp", "64", "-m", "512"], "-- tests every_cpu"),
    Boot {
        machine: LARGEST,
        line: b"-- mem; vmalloc 1M; walk $; vfree $; tests every_cpu",
        code: PASSED,
        says: &[
            "63.7 GiB of 63.7 GiB free",
            "level 1 [",
            "] 0x80000",
            "bytes into the area of 1048576 bytes",
            " tests were right",
        ],
    },
    Boot {
        machine: &["-smp", "4"],
        line: b"flush=none stress=20 -- tests every_page_keeps",
        code: FAILED,
        says: &["instead of", "0 of 1 tests were right"],
    },
    Boot {
        machine: &["-smp", "4"],
        line: b"flush=none -- tests pages_that_became_read_only",
        code: FAILED,
        says: &["a store to 0x", "0 of 1 tests were right"],
    },
    Boot {
        machine: &["-smp", "4"],
        line: b"flush=none -- tests by_the_direct_map",
        code: FAILED,
        says: &["a direct store to 0x", "0 of 1 tests were right"],
    },
    Boot {
        machine: &["-smp", "2"],
        line: b"-- write scullv0 one two; read scullv0 4; ioctl scullv0 Torder 1; ioctl scullv0 Qorder; scullvmem; \
               write scullv0 x; scullvmem; vmallocinfo",
        code: PASSED,
        says: &[
            "scullv0: 7 bytes\r\n",
            "> read scullv0 4\r\ntwo\r\n",
            "Device 0: qset 500, order 4, sz 7\r\n",
            "Device 0: qset 500, order 1, sz 1\r\n",
            "pages=2 vmalloc",
        ],
    },
    Boot {
        machine: &["-smp", "2"],
        line: b"-- vmalloc 8192; vmalloc 12288; kmemleak scan; sleep 6; kmemleak scan; kmemleak; kmemleak scam",
        code: FAILED,
        says: &["kmemleak: 1 new suspected memory leaks", "(size 8192):", "shell/areas.rs:", "no command of kmemleak"],
    },
    // Heard of since the boot, so the first scan finds it old enough; the second does not tell of it again.
    Boot {
        machine: &["-smp", "2"],
        line: b"kmemleak=on -- vmalloc 8192; vmalloc 12288; sleep 6; kmemleak scan; kmemleak scan; kmemleak",
        code: PASSED,
        says: &["kmemleak: 1 new suspected memory leaks", "(size 8192):", "comm \"swapper\", pid 0"],
    },
    Boot {
        machine: &["-smp", "2"],
        line: b"kmemleak=off -- vmalloc 8192; kmemleak scan",
        code: FAILED,
        says: &["kmemleak is off"],
    },
    crash("-- crash guard", &["guard: 0x18 bytes past the end of the area of 5000 bytes", "tests/crash.rs"]),
    crash("-- crash freed", &["in the freed area of 5000 bytes", "freed by machines/pc/src/tests/crash.rs"]),
    crash("-- crash overflow", &["BUG: CPU stack guard page was hit at ffff", "(stack is "]),
    crash("-- crash overflow-task", &["BUG: TASK stack guard page was hit at ", "(stack is ", "tests/crash.rs"]),
    crash("-- crash overflow-in-trap", &["BUG: CPU stack guard page was hit", "(stack is "]),
    crash("-- crash text", &["(permissions violation)"]),
    refused(b"placment=lowest -- mem", &["\"placment=lowest\" is no setting; there are: policy=unmap|"]),
    refused(b"policy=strict lowest -- mem", &["\"lowest\" is no setting"]),
    refused(b"kmemleak=of -- mem", &["\"kmemleak=of\" is no setting"]),
    refused(b"region=64Q -- mem", &["\"region=64Q\" is no setting"]),
    refused(b"policy=str\xffct -- mem", &["the command line: not UTF-8 from here on: \\xffct -- mem"]),
];

/// What the image that is measured boots: it hears no events, and its detector finds the areas all the same.
const MEASURED_BOOTS: &[Boot] = &[
    tests(&["-smp", "2"], "-- tests"),
    Boot {
        machine: &["-smp", "2"],
        line: b"-- vmalloc 8192; vmalloc 12288; kmemleak scan; sleep 6; kmemleak scan; kmemleak",
        code: PASSED,
        says: &["kmemleak: 1 new suspected memory leaks", "(size 8192):", "shell/areas.rs:"],
    },
];

/// Builds both images and boots them on all machines.
pub fn run(project: &Project) -> Result<Outcome> {
    if let Some(why) = without_qemu(project)? {
        return Ok(Outcome::Skipped(why));
    }
    succeed(project.cargo().arg("build").args(MEASURED))?;
    let all = [("image/pc", BOOTS), ("measured/pc", MEASURED_BOOTS)];
    let wrong: usize = all.iter().map(|(image, boots)| boot_all(&project.built.join(image), boots)).sum();
    ensure!(wrong == 0, "{wrong} boots were wrong");
    Ok(Outcome::Passed)
}

/// Boots `image` on all machines, [`AT_ONCE`] at a time, and says how many went wrong.
fn boot_all(image: &Path, boots: &[Boot]) -> usize {
    let next = AtomicUsize::new(0);
    let work = || iter::from_fn(|| boots.get(next.fetch_add(1, Relaxed))).filter(|boot| !boot.is_right(image)).count();
    thread::scope(|scope| {
        let workers = [(); AT_ONCE].map(|()| scope.spawn(work));
        workers.into_iter().map(|worker| worker.join().unwrap_or(boots.len())).sum()
    })
}

/// Why nothing can be booted here, if there is no QEMU and the command, which
/// boots a machine for a try, may not install it.
pub fn without_qemu(project: &Project) -> Result<Option<String>> {
    succeed(project.cargo().arg("build").args(IMAGE))?;
    // Building the tests of the command builds it too.
    succeed(project.tests().args(["--test", "command", "--no-run"]))?;
    let tried = project.program("vmalloc").args(["boot", "--install", "-c", "mem"]).output()?;
    let complaint = String::from_utf8_lossy(&tried.stderr).trim().to_owned();
    match tried.status.code() {
        Some(0) => Ok(None),
        Some(UNUSABLE) => Ok(Some(complaint)),
        _ => bail!("vmalloc boot: {}: {complaint}", tried.status),
    }
}

/// What a boot said that went wrong, without the tests that were right: logs are cut.
fn abridged(text: &str) -> String {
    let is_news = |line: &&str| !line.starts_with("ok ") && !line.starts_with("@test");
    text.lines().filter(is_news).collect::<Vec<_>>().join("\n")
}

impl Boot {
    fn is_right(&self, image: &Path) -> bool {
        let start = Instant::now();
        let ended = self.boot(image);
        let blame = ended.and_then(|(code, text)| self.judge(code, &text).context(text));
        let (word, seconds) = (if blame.is_ok() { "ok" } else { "FAILED" }, start.elapsed().as_secs_f32());
        println!("{word:<6} {seconds:>5.1} s  {}  \"{}\"", self.machine.join(" "), self.line.escape_ascii());
        blame.inspect_err(|why| println!("{}", abridged(&format!("{why:#}")))).is_ok()
    }

    fn judge(&self, code: Option<i32>, text: &str) -> Result<()> {
        ensure!(code == Some(self.code), "it ended with {code:?} instead of {}", self.code);
        let missing = self.says.iter().find(|says| !text.contains(**says));
        ensure!(missing.is_none(), "it does not say {missing:?}");
        Ok(())
    }

    /// The exit code and all that was printed.
    fn boot(&self, image: &Path) -> Result<(Option<i32>, String)> {
        let mut child = Command::new(QEMU)
            .args(["-M", "q35", "-cpu", "max,la57=off", "-m", "256", "-accel", "tcg,thread=multi"])
            .args(["-display", "none", "-nodefaults", "-no-reboot", "-serial", "stdio"])
            .args(["-device", "isa-debug-exit,iobase=0xf4,iosize=4", "-append"])
            .arg(OsStr::from_bytes(self.line))
            .arg("-kernel")
            .arg(image)
            .args(self.machine)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut output = child.stdout.take().context("it is piped")?;
        let reader = thread::spawn(move || {
            let mut bytes = Vec::new();
            output.read_to_end(&mut bytes).map(|_| String::from_utf8_lossy(&bytes).into_owned())
        });
        let code = wait(&mut child)?;
        let text = reader.join().map_err(|_| anyhow::anyhow!("the reader panicked"))??;
        Ok((code, text))
    }
}

/// The exit code; none after a time that is too long.
fn wait(child: &mut Child) -> Result<Option<i32>> {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status.code());
        }
        if start.elapsed() > PATIENCE {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        thread::sleep(Duration::from_millis(20));
    }
}
