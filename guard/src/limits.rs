//! What the process may have: addresses, and memory. Asked without a heap, when the guard is made.
//!
//! Memory is the least of what the computer has, what Linux allows for data (RLIMIT_DATA), and what the
//! process's control groups allow, each up to the root. Sources: getrlimit(2), cgroups(7), and of Linux's
//! documents "Control Group v2" and "Memory Resource Controller".

use crate::os;
use core::ffi::CStr;
use core::fmt::{self, Write};

/// Bytes of a file that is looked at, and of a path.
const ROOM: usize = 4096;

/// The most bytes of addresses.
pub fn addresses() -> usize {
    limit(libc::RLIMIT_AS)
}

/// The most bytes of memory.
pub fn memory() -> usize {
    os::ram().min(limit(libc::RLIMIT_DATA)).min(groups())
}

fn limit(which: libc::__rlimit_resource_t) -> usize {
    let mut limit = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: the limit is writable.
    unsafe { libc::getrlimit(which, &mut limit) };
    usize::try_from(limit.rlim_cur).unwrap_or(usize::MAX)
}

fn groups() -> usize {
    let mut text = [0; ROOM];
    let text = os::contents(c"/proc/self/cgroup", &mut text);
    text.split(|&byte| byte == b'\n').filter_map(of_line).min().unwrap_or(usize::MAX)
}

/// The limit that a line leads to: a number, controllers, a path, with colons between them.
fn of_line(line: &[u8]) -> Option<usize> {
    let mut parts = line.splitn(3, |&byte| byte == b':');
    let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
    let is_memory = controllers.split(|&byte| byte == b',').any(|name| name == b"memory");
    match controllers {
        b"" => Some(of_group("/sys/fs/cgroup", path, "memory.max")),
        _ if is_memory => Some(of_group("/sys/fs/cgroup/memory", path, "memory.limit_in_bytes")),
        _ => None,
    }
}

/// The least limit of a group and of those above it.
fn of_group(root: &str, mut path: &[u8], file: &str) -> usize {
    let mut least = usize::MAX;
    loop {
        least = least.min(number(root, path, file).unwrap_or(usize::MAX));
        let Some(end) = path.iter().rposition(|&byte| byte == b'/') else { return least };
        path = &path[..end];
    }
}

/// The number in a file; `None` if there is no such file, or no limit in it.
fn number(root: &str, path: &[u8], file: &str) -> Option<usize> {
    let mut name = Name { bytes: [0; ROOM], len: 0 };
    let path = str::from_utf8(path).ok()?;
    write!(name, "{root}{}/{file}\0", path.trim_end_matches('/')).ok()?;
    let mut text = [0; 32];
    let text = os::contents(CStr::from_bytes_with_nul(&name.bytes[..name.len]).ok()?, &mut text);
    str::from_utf8(text.trim_ascii()).ok()?.parse().ok()
}

struct Name {
    bytes: [u8; ROOM],
    len: usize,
}

impl Write for Name {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let place = self.bytes.get_mut(self.len..self.len + text.len()).ok_or(fmt::Error)?;
        place.copy_from_slice(text.as_bytes());
        self.len += text.len();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_limit_up_to_the_root_counts() {
        let folder = std::env::temp_dir().join(format!("vmalloc-guard-limits-{}", os::process()));
        let at = |name: &str| folder.join(name);
        std::fs::create_dir_all(at("a/b/c")).expect("folders");
        for (name, text) in [("memory.max", "max\n"), ("a/memory.max", "700\n"), ("a/b/memory.max", "900\n")] {
            std::fs::write(at(name), text).expect("a file");
        }
        let root = folder.to_str().expect("text");
        let of = |path: &[u8]| of_group(root, path, "memory.max");
        assert_eq!([of(b"/a/b/c"), of(b"/a"), of(b"/"), of(b"/none")], [700, 700, usize::MAX, usize::MAX]);
        assert_eq!((of_line(b"7:cpu:/x"), of_line(b"?")), (None, None));
        std::fs::remove_dir_all(folder).expect("ours");
    }

    #[test]
    fn what_a_process_may_have_is_what_the_computer_has_at_most() {
        assert!((1 << 20..=os::ram()).contains(&memory()), "{}", memory());
    }
}
