//! Questions: what an address is, the listing, the check, the sums.

use crate::border::{border, serve};
use crate::instance::Instance;
use crate::number::Failure;
use crate::text;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::fmt;
use std::mem::MaybeUninit;
use std::ptr::{null, with_exposed_provenance};
use std::slice;
use vmalloc::area::Guard;
use vmalloc::machine::Machine;
use vmalloc::machine::frames::Frames;
use vmalloc::{Caller, Info, What};

/// What an area is for.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Memory of its own.
    Memory = 0,
    /// A stack.
    Stack = 1,
    /// Frames that are somebody's.
    Vmap = 2,
    /// Frames that were handed over to it.
    VmapOwned = 3,
    /// Frames, mapped for a short time.
    MapRam = 4,
    /// A device.
    Ioremap = 5,
    /// Addresses.
    Reserved = 6,
    /// Addresses, of which some pages have frames of the area's own.
    Sparse = 7,
}

impl Kind {
    fn of(kind: vmalloc::Kind) -> Kind {
        match kind {
            vmalloc::Kind::Vmalloc => Kind::Memory,
            vmalloc::Kind::Stack => Kind::Stack,
            vmalloc::Kind::Vmap => Kind::Vmap,
            vmalloc::Kind::VmapOwned => Kind::VmapOwned,
            vmalloc::Kind::MapRam => Kind::MapRam,
            vmalloc::Kind::Ioremap => Kind::Ioremap,
            vmalloc::Kind::Reserved => Kind::Reserved,
            vmalloc::Kind::Sparse => Kind::Sparse,
        }
    }
}

/// An area, as it was a moment ago.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Area {
    /// Its first byte; null = there is no area.
    pub start: *const c_void,
    /// The bytes that were asked for.
    pub size: usize,
    /// Its pages, without the guard.
    pub pages: usize,
    /// One of `enum vmalloc_kind`.
    pub kind: c_int,
    /// Whether an unmapped page follows.
    pub guard: bool,
    /// Who asked for it; null = nobody said.
    pub by: *const c_void,
    /// Who freed it; null = it lives, or nobody said.
    pub freed_by: *const c_void,
}

impl Area {
    const NONE: Area = Area { start: null(), size: 0, pages: 0, kind: 0, guard: false, by: null(), freed_by: null() };

    fn of(info: &Info) -> Area {
        Area {
            start: with_exposed_provenance(info.start.0),
            size: info.bytes,
            pages: info.pages,
            kind: Kind::of(info.kind) as c_int,
            guard: info.guard == Guard::After,
            by: code(info.caller),
            freed_by: info.freer.map_or(null(), code),
        }
    }
}

/// An address of code, if a caller in C named one.
fn code(caller: Caller) -> *const c_void {
    match caller {
        Caller::Return(pc) => with_exposed_provenance(pc),
        Caller::At(_) => null(),
    }
}

/// What an address may be.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    /// No address of the instance.
    NotOurs = 0,
    /// Not in use.
    Free = 1,
    /// In an area that is just being made or freed.
    Changing = 2,
    /// In `area`, `offset` bytes behind its start.
    Inside = 3,
    /// In `area`, which was freed.
    Freed = 4,
    /// In an unmapped page, `offset` bytes behind the end of `area` and `short_of` bytes below `above`,
    /// where there are such areas.
    Guard = 5,
}

/// What an address is.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct WhatIs {
    /// One of `enum vmalloc_answer`.
    pub answer: c_int,
    /// The area that it is about.
    pub area: Area,
    /// Bytes behind the start, or the end, of that area.
    pub offset: usize,
    /// The area above a guard.
    pub above: Area,
    /// Bytes to that area.
    pub short_of: usize,
}

impl WhatIs {
    fn of(what: &What) -> WhatIs {
        let nothing = WhatIs { answer: 0, area: Area::NONE, offset: 0, above: Area::NONE, short_of: 0 };
        let plain = |answer: Answer| WhatIs { answer: answer as c_int, ..nothing };
        let area = |area: &Option<Info>| area.as_ref().map_or(Area::NONE, Area::of);
        match what {
            What::NotOurs => plain(Answer::NotOurs),
            What::Free => plain(Answer::Free),
            What::Changing => plain(Answer::Changing),
            What::Inside { area, offset } => WhatIs { area: Area::of(area), offset: *offset, ..plain(Answer::Inside) },
            What::Freed { was, .. } => WhatIs { area: Area::of(was), ..plain(Answer::Freed) },
            What::Guard { below, past, above, short } => WhatIs {
                area: area(below),
                offset: *past,
                above: area(above),
                short_of: *short,
                ..plain(Answer::Guard)
            },
        }
    }
}

/// Sums of an instance.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Stats {
    /// Areas that live.
    pub areas: usize,
    /// Their pages, without guards.
    pub pages: usize,
    /// Pages that were freed and wait for a flush.
    pub waiting_pages: usize,
    /// Pages of freed areas that are kept for the next ones of their size.
    pub cached_pages: usize,
    /// Frames of tables.
    pub table_frames: usize,
    /// Frames of bookkeeping.
    pub bookkeeping_frames: usize,
    /// Frames that nobody has.
    pub free_frames: usize,
    /// Mappings of the process that are this instance's.
    pub mappings: usize,
    /// The most that it may have.
    pub mappings_allowed: usize,
}

/// Takes a piece of a text, without a zero at its end; not 0 = no more of it is wanted.
pub type Write = Option<unsafe extern "C" fn(arg: *mut c_void, text: *const c_char, bytes: usize) -> c_int>;

/// Text that goes to a function of C.
struct Out {
    write: unsafe extern "C" fn(*mut c_void, *const c_char, usize) -> c_int,
    arg: *mut c_void,
    said: c_int,
}

impl fmt::Write for Out {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        // SAFETY: CP5.
        self.said = unsafe { (self.write)(self.arg, text.as_ptr().cast(), text.len()) };
        if self.said == 0 { Ok(()) } else { Err(fmt::Error) }
    }
}

/// Prints where a code address lies: `function+0x1f`, or `program+0x11e9` for who asks `addr2line`.
pub fn symbol(pc: usize, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let mut info = MaybeUninit::<libc::Dl_info>::uninit();
    let code: *const c_void = with_exposed_provenance(pc);
    // SAFETY: the place is ours; the function takes any address.
    if pc == 0 || unsafe { libc::dladdr(code, info.as_mut_ptr()) } == 0 {
        return write!(f, "{pc:#x}");
    }
    // SAFETY: it returned not 0, so it has filled the place.
    let info = unsafe { info.assume_init() };
    let (name, from) =
        if info.dli_sname.is_null() { (info.dli_fname, info.dli_fbase) } else { (info.dli_sname, info.dli_saddr) };
    // SAFETY: a name that it gives ends with a zero, and lasts as long as the code is loaded.
    let name = unsafe { CStr::from_ptr(name) }.to_string_lossy();
    let name = name.rsplit('/').next().unwrap_or_default();
    write!(f, "{name}+{:#x}", pc.wrapping_sub(from.addr()))
}

/// The buffer that C names.
///
/// # Safety
/// CP2; and it is dropped before the call ends.
unsafe fn buffer<'b>(room: *mut c_char, bytes: usize) -> &'b mut [u8] {
    if room.is_null() || bytes > isize::MAX as usize {
        return &mut [];
    }
    // SAFETY: CP2.
    unsafe { slice::from_raw_parts_mut(room.cast(), bytes) }
}

/// Writes to `into` what `at` is. Any address may be asked about. Takes no lock and no memory. Returns
/// 0, or why it was refused.
///
/// # Safety
/// CP1, CP2.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmalloc_whatis(vm: *mut Instance, at: *const c_void, into: *mut WhatIs) -> c_int {
    let whatis = |vm: &Instance| {
        if into.is_null() {
            return Err(Failure::argument("the place for the answer is null"));
        }
        // SAFETY: CP2.
        unsafe { into.write(WhatIs::of(&vm.vm().whatis(at.addr()))) };
        Ok(0)
    };
    // SAFETY: CP1, handed on.
    unsafe { serve(vm, whatis) }
}

/// Writes a sentence about `at` into `room`, which has `bytes` bytes: as much as fits, and a zero.
/// Returns the bytes of the whole sentence, without the zero. Callers are code addresses in it:
/// `vmalloc_symbol` tells more of one.
///
/// # Safety
/// CP1, CP2.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmalloc_whatis_text(
    vm: *mut Instance,
    at: *const c_void,
    room: *mut c_char,
    bytes: usize,
) -> usize {
    // SAFETY: CP2.
    let told = |vm: &Instance| Ok(text::write(unsafe { buffer(room, bytes) }, vm.vm().whatis(at.addr())));
    // SAFETY: CP1, handed on.
    unsafe { serve(vm, told) }
}

/// Writes into `room` where a code address lies, as the listing has it. Returns the bytes of all of
/// it, without the zero at the end.
///
/// # Safety
/// CP2.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmalloc_symbol(code: *const c_void, room: *mut c_char, bytes: usize) -> usize {
    // SAFETY: CP2.
    border(|| Ok(text::write(unsafe { buffer(room, bytes) }, fmt::from_fn(|f| symbol(code.addr(), f)))))
}

/// Hands the listing of all areas to `write`, in pieces: in the form of `/proc/vmallocinfo`, by
/// address, and then what waits for a flush. Returns 0, or what `write` returned last.
///
/// # Safety
/// CP1, CP5.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmalloc_list(vm: *mut Instance, write: Write, arg: *mut c_void) -> c_int {
    let list = |vm: &Instance| {
        let write = write.ok_or_else(|| Failure::argument("the function that takes the listing is null"))?;
        let mut out = Out { write, arg, said: 0 };
        // Its only error is that nobody wants more.
        let _ = vm.vm().list(&mut out);
        Ok(out.said)
    };
    // SAFETY: CP1, handed on.
    unsafe { serve(vm, list) }
}

/// Checks every rule on everything. Call it while nobody else makes a call. Returns 0, or
/// `VMALLOC_ERROR_UNCLEAN`: `vmalloc_last_message` names the rule and the place then.
///
/// # Safety
/// CP1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmalloc_check(vm: *mut Instance) -> c_int {
    // SAFETY: CP1, handed on.
    unsafe { serve(vm, |vm| Ok(vm.vm().check().map(|()| 0)?)) }
}

/// Writes the sums of an instance to `into`. Returns 0, or why it was refused.
///
/// # Safety
/// CP1, CP2.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmalloc_stats(vm: *mut Instance, into: *mut Stats) -> c_int {
    let stats = |vm: &Instance| {
        if into.is_null() {
            return Err(Failure::argument("the place for the sums is null"));
        }
        // SAFETY: CP2.
        unsafe { into.write(sums(vm)) };
        Ok(0)
    };
    // SAFETY: CP1, handed on.
    unsafe { serve(vm, stats) }
}

fn sums(vm: &Instance) -> Stats {
    let (stats, machine) = (vm.vm().stats(), vm.vm().machine());
    Stats {
        areas: stats.areas,
        pages: stats.pages,
        waiting_pages: stats.waiting_pages,
        cached_pages: stats.cached_pages,
        table_frames: stats.table_frames,
        bookkeeping_frames: stats.bookkeeping_frames,
        free_frames: machine.frames().free_now() + stats.pooled_frames,
        mappings: machine.vmas().used,
        mappings_allowed: machine.vmas().allowed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::number::{vmalloc_last_error, vmalloc_last_message};
    use std::ptr::NonNull;
    use vmalloc::units::{PAGE_SIZE, Pfn};
    use vmalloc::{Req, Vmalloc};
    use vmalloc_hosted::Hosted;

    /// The entry of a table that maps this frame: some word of memory that is present and names it.
    fn entry_of(vm: &Vmalloc<Hosted>, frame: Pfn) -> NonNull<u64> {
        let frames = (0..vm.machine().ram() / PAGE_SIZE).map(|frame| vm.machine().virt(Pfn(frame as u64)));
        // SAFETY: M2: a frame of RAM has 512 words there, and nobody else writes them meanwhile.
        let mut words = frames.flat_map(|frame| (0..512).map(move |n| unsafe { frame.cast::<u64>().add(n) }));
        // SAFETY: as above.
        let is_entry = |at: &NonNull<u64>| unsafe { at.read() } & 0x000f_ffff_ffff_f001 == frame.phys() | 1;
        words.find(is_entry).expect("the area is mapped")
    }

    #[test]
    fn a_check_that_finds_a_broken_rule_says_which() {
        let instance = Instance::build(None).ok().expect("memory");
        let (vm, at) = (instance.vm(), &raw const instance);
        let area = vm.alloc(Req::bytes(1)).unwrap();
        let entry = entry_of(vm, vm.frame_at(area.addr().get()).unwrap());
        // SAFETY: CP1, CP2: the instance is this test's, and nobody else writes its tables.
        let check = || unsafe { vmalloc_check(at.cast_mut()) };
        assert_eq!(check(), 0);
        // SAFETY: as above.
        let was = unsafe { entry.replace(0) };
        assert_eq!((check(), vmalloc_last_error()), (-117, -117));
        // SAFETY: CP2: the text ends with a zero.
        let message = unsafe { CStr::from_ptr(vmalloc_last_message()) }.to_string_lossy().into_owned();
        assert_eq!(message, format!("rule G2 is broken at {:#x}", area.addr()));
        // SAFETY: as above.
        unsafe { entry.write(was) };
        assert_eq!(check(), 0);
    }
}
