//! The place of a mount: whether something can be mounted there.
//!
//! A mount whose server was killed stays, and everything on it fails with
//! ENOTCONN. One that was ours is taken away before a new one is made; others
//! are left alone, with an explanation.

use anyhow::{Context, Result, bail, ensure};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The source that our mounts have in the list of mounts.
pub const SOURCE: &str = "vmalloc-scullv";
const DEVICE: &str = "/dev/fuse";
const HELPERS: [&str; 2] = ["fusermount3", "fusermount"];
/// The capability to mount.
const SYS_ADMIN: u32 = 21;
/// Dead mounts that may lie on top of each other.
const LAYERS: usize = 16;

/// Why nothing can be mounted here by FUSE, if nothing can.
pub fn obstacle() -> Option<String> {
    let device = match fs::File::options().read(true).write(true).open(DEVICE) {
        Ok(device) => device,
        Err(why) => return Some(format!("{DEVICE}: {why}")),
    };
    match (has_right(), HELPERS.iter().any(|name| helper(name).is_some())) {
        (true, _) => probe(device).err().map(|why| format!("mount(2): {why}")),
        (false, true) => None,
        (false, false) => Some("neither the right to mount (CAP_SYS_ADMIN) nor fusermount3".to_owned()),
    }
}

fn has_right() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    effective.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).is_some_and(|bits| bits >> SYS_ADMIN & 1 != 0)
}

/// Mounts something that nobody will serve, and takes it away: a container may
/// have the right and forbid the call.
fn probe(device: fs::File) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", device.as_raw_fd());
    mount(SOURCE, folder.path(), "fuse", MountFlags::NOSUID | MountFlags::NODEV, &*CString::new(options)?)?;
    Ok(unmount(folder.path(), UnmountFlags::DETACH)?)
}

fn helper(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file())
}

/// Makes sure that `place` is a folder that can be mounted on, and returns it
/// in full. What an earlier run of ours left there is taken away.
pub fn prepare(place: &Path) -> Result<PathBuf> {
    let whole = std::path::absolute(place)?;
    for _ in 0..LAYERS {
        match fs::metadata(&whole) {
            Err(why) if is_dead(&why) => clear(&whole)?,
            Err(why) => bail!("{}: {why}", place.display()),
            Ok(meta) => {
                ensure!(meta.is_dir(), "{}: not a folder", place.display());
                let whole = whole.canonicalize()?;
                let served = mounts()?.iter().any(|mount| mount.at == whole && mount.source == SOURCE);
                ensure!(!served, "{}: devices are mounted there already", place.display());
                return Ok(whole);
            }
        }
    }
    bail!("{}: too many dead mounts lie there", place.display())
}

/// Whether the server of a mount is gone.
pub fn is_dead(why: &io::Error) -> bool {
    why.raw_os_error() == Some(libc::ENOTCONN)
}

fn clear(place: &Path) -> Result<()> {
    let shown = place.display();
    let top = mounts()?.into_iter().rfind(|mount| mount.at == place);
    match top {
        Some(mount) if mount.source == SOURCE => {
            eprintln!("vmalloc: {shown}: a mount whose server was killed (ENOTCONN); taking it away");
            detach(place).with_context(|| format!("{shown}: the dead mount cannot be taken away"))
        }
        _ => bail!(
            "{shown}: a mount whose server is gone (ENOTCONN), and not one of ours; \
             to take it away: fusermount3 -u -z {shown}, or as root umount -l {shown}"
        ),
    }
}

/// Takes a mount out of sight; it ends when nobody uses it any more.
pub fn detach(place: &Path) -> Result<()> {
    let refused = match unmount(place, UnmountFlags::DETACH) {
        Ok(()) => return Ok(()),
        Err(why) => why,
    };
    let Some(helper) = HELPERS.iter().find_map(|name| helper(name)) else { return Err(refused.into()) };
    let status = Command::new(helper).args(["-u", "-z", "--"]).arg(place).status()?;
    ensure!(status.success(), "fusermount: {status}");
    Ok(())
}

/// A mount of this process's world.
struct Mounted {
    at: PathBuf,
    source: String,
}

fn mounts() -> Result<Vec<Mounted>> {
    let list = fs::read_to_string("/proc/self/mountinfo").context("/proc/self/mountinfo")?;
    Ok(list.lines().filter_map(mounted).collect())
}

/// Source: proc(5), mountinfo: the place is the fifth word; type and source
/// follow a lone dash.
fn mounted(line: &str) -> Option<Mounted> {
    let (before, after) = line.split_once(" - ")?;
    let at = plain(before.split(' ').nth(4)?);
    Some(Mounted { at, source: after.split(' ').nth(1)?.to_owned() })
}

/// A path without its octal escapes.
fn plain(escaped: &str) -> PathBuf {
    let mut bytes = Vec::new();
    let mut rest = escaped.as_bytes();
    while let [first, tail @ ..] = rest {
        let code = tail.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        let code = code.filter(|_| *first == b'\\').and_then(|digits| u8::from_str_radix(digits, 8).ok());
        bytes.push(code.unwrap_or(*first));
        rest = if code.is_some() { &tail[3..] } else { tail };
    }
    PathBuf::from(std::ffi::OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_is_known_by_its_place_and_its_source() {
        let line = r"36 35 98:0 /m /mnt/a\040b\134c rw,noatime shared:1 - fuse.x vmalloc-scullv rw,user_id=0";
        let found = mounted(line).unwrap();
        assert_eq!((found.at, &*found.source), (PathBuf::from(r"/mnt/a b\c"), "vmalloc-scullv"));
        assert!(mounted("nonsense").is_none());
        assert!(mounts().unwrap().iter().any(|mount| mount.at == Path::new("/")));
    }

    #[test]
    fn what_is_no_folder_cannot_be_mounted_on() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let why = prepare(file.path()).unwrap_err().to_string();
        assert!(why.ends_with("not a folder"), "{why}");
        let why = prepare(Path::new("/nowhere/at/all")).unwrap_err().to_string();
        assert!(why.contains("No such file"), "{why}");
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(prepare(folder.path()).unwrap(), folder.path().canonicalize().unwrap());
    }
}
