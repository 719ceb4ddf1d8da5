//! Making areas, looking at them, giving them back.

use super::Done;
use super::words::{Complaint, Words, remember};
use crate::serial::Console;
use crate::{trap, vm};
use arrayvec::ArrayVec;
use core::ptr::NonNull;
use vmalloc::area::{Info, Kind};
use vmalloc::error::AllocError;
use vmalloc::machine::format::MemType;
use vmalloc::units::{PAGE_SIZE, Pfn};
use vmalloc::{Caller, Gfp, Req};

/// Pages that `vmap` maps at most: their numbers lie on the stack.
const MAPPED: usize = 64;
/// Bytes that are written and read at once.
const WORD: usize = 8;

pub fn list<'t>(_: &mut Words<'t>) -> Done<'t> {
    // The console refuses nothing.
    let _printed = vm().list(&mut Console);
    Ok(())
}

pub fn vmalloc<'t>(words: &mut Words<'t>) -> Done<'t> {
    let bytes = words.number("how many bytes")?;
    let align = words.number_or(PAGE_SIZE, "aligned to what")?;
    made(vm().alloc(Req::bytes(bytes).align(align).caller(Caller::here()))?)
}

pub fn vmap<'t>(words: &mut Words<'t>) -> Done<'t> {
    let pages = words.number("how many pages")?;
    if pages > MAPPED {
        return Err(AllocError::TooLarge { bytes: pages.saturating_mul(PAGE_SIZE), limit: MAPPED * PAGE_SIZE }.into());
    }
    let mut frames: ArrayVec<Pfn, MAPPED> = ArrayVec::new();
    let mut mapped = Ok(());
    while mapped.is_ok() && frames.len() < pages {
        mapped = vm().alloc_frame(Gfp::KERNEL, None).map(|frame| frames.push(frame));
    }
    // SAFETY: P2: the frames are ours, and just came from there.
    let at = mapped.and_then(|()| unsafe { vm().vmap_owned(&frames, Req::bytes(0)) });
    if at.is_err() {
        // SAFETY: P3: as above, and nothing maps them.
        frames.iter().for_each(|&frame| unsafe { vm().free_frame(frame) });
    }
    made(at?)
}

pub fn ioremap<'t>(words: &mut Words<'t>) -> Done<'t> {
    let phys = words.number("at what physical address")?;
    let bytes = words.number("how many bytes")?;
    made(vm().ioremap(phys as u64, bytes, MemType::UncachedMinus)?)
}

fn made<'t>(at: NonNull<u8>) -> Done<'t> {
    let area = area(at.addr().get())?;
    let (start, end) = (area.start.0, area.range().end().0);
    remember(start);
    println!("{start:#x}: {} pages; the guard is at {end:#x}", area.pages);
    Ok(())
}

/// The live area that has `at`.
fn area<'t>(at: usize) -> Result<Info, Complaint<'t>> {
    vm().find(at).ok_or(Complaint::NoArea(at))
}

pub fn vfree<'t>(words: &mut Words<'t>) -> Done<'t> {
    let at = words.area()?;
    let known = vm().find(at.addr().get());
    // SAFETY: V1: whoever types it knows that nobody uses it.
    unsafe {
        match known.map(|area| (area.kind, area.pages)) {
            Some((Kind::Ioremap, _)) => vm().iounmap(at)?,
            Some((Kind::Vmap, _)) => vm().vunmap(at)?,
            Some((Kind::MapRam, pages)) => vm().unmap_ram(at, pages)?,
            _ => vm().free(at)?,
        }
    }
    Ok(())
}

pub fn whatis<'t>(words: &mut Words<'t>) -> Done<'t> {
    let at = words.number("at what address")?;
    println!("{at:#x} is {}", vm().whatis(at));
    Ok(())
}

pub fn fill<'t>(words: &mut Words<'t>) -> Done<'t> {
    let at = words.number("at what address")?;
    let byte = words.number_or(0x5a, "with what byte")? as u8;
    let area = area(at)?;
    if matches!(area.kind, Kind::Ioremap | Kind::Reserved) {
        return Err(Complaint::NoMemory(area.start.0));
    }
    let value = u64::from_ne_bytes([byte; WORD]);
    let places = || (area.start.0..area.range().end().0).step_by(WORD);
    for at in places() {
        // SAFETY: memory of a live area; whoever types it wants it.
        unsafe { trap::store(at, value)? }
    }
    let (mut wrong, mut first) = (0, 0);
    for at in places() {
        if trap::load(at)? != value {
            first = if wrong == 0 { at } else { first };
            wrong += 1;
        }
    }
    if wrong > 0 {
        return Err(Complaint::Differs(wrong, first));
    }
    println!("{} bytes are {byte:#04x}", area.pages * PAGE_SIZE);
    Ok(())
}

pub fn peek<'t>(words: &mut Words<'t>) -> Done<'t> {
    const A_LINE: usize = 4;
    let at = words.number("at what address")?;
    let count = words.number_or(1, "how many words")?;
    for index in 0..count {
        let here = at.wrapping_add(index * WORD);
        let value = trap::load(here)?;
        if index % A_LINE == 0 {
            print!("{}{here:#018x}: ", if index > 0 { "\n" } else { "" });
        }
        print!(" {value:016x}");
    }
    println!();
    Ok(())
}

pub fn poke<'t>(words: &mut Words<'t>) -> Done<'t> {
    let at = words.number("at what address")?;
    let value = words.number("what value")?;
    // SAFETY: whoever types it wants it.
    unsafe { trap::store(at, value as u64)? }
    Ok(())
}
