//! What it takes to run a guest: an image, and the program that runs it.

use super::QemuError;
use super::error::PACKAGE;
use serde_json::Value;
use std::env;
use std::ffi::OsStr;
use std::io::{self, IsTerminal};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

const PROGRAM: &str = "qemu-system-x86_64";
const IMAGE: &str = "vmalloc-pc";

/// What nobody notices waiting for.
const MOMENT: Duration = Duration::from_secs(1);

/// Where image and program come from.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Source {
    /// The image, where it is not to be built from the source
    #[arg(long, value_name = "FILE")]
    pub image: Option<PathBuf>,
    /// Install QEMU if it is missing (apt-get, as root)
    #[arg(long)]
    pub install: bool,
}

/// What the image is built for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Purpose {
    /// To be used: it has all that it can do.
    Use,
    /// To be measured: it does not hear the library's events, as a machine that needs none.
    Measure,
}

impl Purpose {
    /// What cargo is told. Each has a profile, so that neither replaces the other's file.
    const fn arguments(self) -> &'static [&'static str] {
        match self {
            Purpose::Use => &["--profile", "image"],
            Purpose::Measure => &["--profile", "measured", "--no-default-features"],
        }
    }
}

/// What runs guests.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tools {
    /// The image.
    pub image: PathBuf,
    /// QEMU.
    pub program: PathBuf,
}

impl Tools {
    /// Finds QEMU, or installs it, and builds the image for `purpose`, if none is given.
    ///
    /// # Errors
    /// One of them cannot be had; what to do is said.
    pub fn find(from: &Source, purpose: Purpose) -> Result<Tools, QemuError> {
        let program = match find_in(&env::var_os("PATH").unwrap_or_default()) {
            None if from.install => install()?,
            found => found.ok_or(QemuError::NoProgram)?,
        };
        let image = match &from.image {
            Some(image) if image.is_file() => image.clone(),
            Some(image) => return Err(QemuError::NoImage(image.clone())),
            None => build(purpose)?,
        };
        Ok(Tools { image, program })
    }
}

/// The program, in one of the folders of `path`.
fn find_in(path: &OsStr) -> Option<PathBuf> {
    let runs = |file: &PathBuf| file.metadata().is_ok_and(|of| of.is_file() && of.permissions().mode() & 0o111 != 0);
    env::split_paths(path).map(|folder| folder.join(PROGRAM)).find(runs)
}

/// Installs the package that has the program.
fn install() -> Result<PathBuf, QemuError> {
    let failed = |why: String| QemuError::NotInstalled(why);
    if !rustix::process::geteuid().is_root() {
        return Err(failed(format!("only root may; sudo apt-get install --no-install-recommends {PACKAGE}")));
    }
    for words in [&["update", "-qq"][..], &["install", "-y", "-qq", "--no-install-recommends", PACKAGE]] {
        let mut apt = Command::new("apt-get");
        apt.args(words).env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null()).stdout(Stdio::null());
        let status = apt.status().map_err(|why| failed(format!("apt-get: {why}")))?;
        if !status.success() {
            return Err(failed(format!("apt-get {}: {status}", words[0])));
        }
    }
    find_in(&env::var_os("PATH").unwrap_or_default()).ok_or_else(|| failed("it brought no program".to_owned()))
}

/// Does `work`; a line tells of it if it takes more than a moment and cargo cannot show that.
fn telling<R>(work: impl FnOnce() -> R) -> R {
    let (end, ended) = channel::<()>();
    thread::scope(|scope| {
        scope.spawn(move || {
            if ended.recv_timeout(MOMENT) == Err(RecvTimeoutError::Timeout) && !io::stderr().is_terminal() {
                eprintln!("vmalloc: building the image, which takes up to a minute");
            }
        });
        let done = work();
        drop(end);
        done
    })
}

/// Builds the image where cargo would: in the folder of this workspace. On a terminal cargo shows how far
/// it is; elsewhere a line says what takes long, unless there is nothing to build.
fn build(purpose: Purpose) -> Result<PathBuf, QemuError> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("/"));
    if !source.join("machines/pc/Cargo.toml").is_file() {
        return Err(QemuError::NoSource(source.to_owned()));
    }
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "-p", IMAGE, "--message-format", "json-render-diagnostics"]).args(purpose.arguments());
    if io::stderr().is_terminal() {
        cargo.stderr(Stdio::inherit());
    }
    let built = telling(|| cargo.current_dir(source).stdin(Stdio::null()).output()).map_err(QemuError::NoCargo)?;
    let executable = executable(&String::from_utf8_lossy(&built.stdout));
    executable
        .filter(|_| built.status.success())
        .ok_or_else(|| QemuError::NotBuilt(String::from_utf8_lossy(&built.stderr).trim_end().to_owned()))
}

/// The program that cargo says it has built.
fn executable(messages: &str) -> Option<PathBuf> {
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    messages.filter_map(|message| Some(PathBuf::from(message["executable"].as_str()?))).next_back()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn the_program_is_found_where_it_can_be_run() {
        let folder = tempfile::tempdir().unwrap();
        let (text, program) = (folder.path().join("text"), folder.path().join("program"));
        for (place, mode) in [(&text, 0o644), (&program, 0o755)] {
            fs::create_dir(place).unwrap();
            fs::write(place.join(PROGRAM), "").unwrap();
            fs::set_permissions(place.join(PROGRAM), fs::Permissions::from_mode(mode)).unwrap();
        }
        let path = env::join_paths([Path::new("/nowhere"), &text, &program]).unwrap();
        assert_eq!(find_in(&path), Some(program.join(PROGRAM)));
        assert_eq!(find_in(text.as_os_str()), None);
    }

    #[test]
    fn the_image_is_the_last_program_that_cargo_names() {
        let messages = "{\"executable\":null}\nno message\n{\"executable\":\"/t/pc\"}\n{\"reason\":\"build-finished\"}";
        assert_eq!(executable(messages), Some(PathBuf::from("/t/pc")));
        assert_eq!(executable("{}"), None);
    }
}
