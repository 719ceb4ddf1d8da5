//! What is guarded, and how: chosen in the program, or told by the environment of a preloaded library.

use core::cell::UnsafeCell;
use core::ffi::CStr;

/// Where the bytes of a guarded allocation lie in its pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    /// Against the page that follows: the first byte past the end faults, if the alignment leaves no gap.
    End,
    /// Against the page before: the first byte before the start faults.
    Start,
    /// By chance; three of four at the end.
    Chance,
}

/// A file's path, with a `%p` for the process's number.
pub type Path = &'static CStr;

/// What is guarded, and how.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// One of this number of allocations is guarded, on average.
    pub every: u32,
    /// The most guarded allocations alive.
    pub live: usize,
    /// Where their bytes lie.
    pub side: Side,
    /// What chance follows from; `None` = another one each time.
    pub seed: Option<u64>,
    /// Where reports go, as JSON; `None` = stderr, as text.
    pub report: Option<Path>,
    /// Whether what is left at the exit is listed.
    pub leaks: bool,
    /// Pages of freed allocations that stay out of use, so that a late use faults.
    pub quarantine: usize,
}

impl Settings {
    /// One of `every` allocations is guarded; the rest has defaults.
    pub const fn every(every: u32) -> Settings {
        Settings {
            every: if every == 0 { 1 } else { every },
            live: usize::MAX,
            side: Side::Chance,
            seed: None,
            report: None,
            leaks: false,
            quarantine: 1 << 16,
        }
    }

    /// What the environment says; what it says wrongly is as if it said nothing.
    ///
    /// # Safety
    /// Once in a process.
    pub unsafe fn from_environment() -> Settings {
        let mut settings = Settings::every(variable(c"VMALLOC_GUARD").and_then(every).unwrap_or(1000));
        settings.live = number(c"VMALLOC_GUARD_LIVE").unwrap_or(settings.live);
        settings.quarantine = number(c"VMALLOC_GUARD_QUARANTINE").unwrap_or(settings.quarantine);
        settings.side = variable(c"VMALLOC_GUARD_SIDE").and_then(side).unwrap_or(settings.side);
        settings.seed = number(c"VMALLOC_GUARD_SEED").map(|seed| seed as u64);
        let report = variable(c"VMALLOC_GUARD_REPORT").filter(|path| !path.is_empty());
        // SAFETY: the caller's promise.
        settings.report = report.and_then(|path| unsafe { keep(path) });
        settings.leaks = variable(c"VMALLOC_GUARD_LEAKS").is_some_and(|text| !matches!(text.to_bytes(), b"" | b"0"));
        settings
    }
}

/// Bytes of a path, the zero at its end included. Linux takes no longer one.
const LONGEST: usize = 4096;

struct Kept(UnsafeCell<[u8; LONGEST]>);

// SAFETY: written once, before anybody reads it.
unsafe impl Sync for Kept {}

/// A copy that stays: programs write over their environment, to change what `ps` shows of them.
///
/// # Safety
/// Once in a process.
unsafe fn keep(path: &CStr) -> Option<Path> {
    static KEPT: Kept = Kept(UnsafeCell::new([0; LONGEST]));
    // SAFETY: the caller's promise: nobody else has it.
    let kept = unsafe { &mut *KEPT.0.get() };
    let bytes = path.to_bytes_with_nul();
    kept.get_mut(..bytes.len())?.copy_from_slice(bytes);
    CStr::from_bytes_with_nul(&kept[..bytes.len()]).ok()
}

/// A variable, if it is set.
fn variable<'e>(name: &CStr) -> Option<&'e CStr> {
    // SAFETY: the name is a C string; what is found is looked at before the program may change it.
    unsafe {
        let text = libc::getenv(name.as_ptr());
        (!text.is_null()).then(|| CStr::from_ptr(text))
    }
}

fn number(name: &CStr) -> Option<usize> {
    variable(name)?.to_str().ok()?.parse().ok()
}

/// `all`, or `every=N`.
fn every(text: &CStr) -> Option<u32> {
    match text.to_str().ok()? {
        "all" => Some(1),
        text => text.strip_prefix("every=")?.parse().ok(),
    }
}

fn side(text: &CStr) -> Option<Side> {
    match text.to_bytes() {
        b"end" => Some(Side::End),
        b"start" => Some(Side::Start),
        b"chance" => Some(Side::Chance),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_understood_and_others_are_not() {
        assert_eq!([c"all", c"every=7", c"every=", c"7"].map(every), [Some(1), Some(7), None, None]);
        assert_eq!([c"end", c"start", c"ends"].map(side), [Some(Side::End), Some(Side::Start), None]);
    }
}
