//! Contents, through the translation of the hardware.

use super::table::{Place, Stamped};
use super::{Outcome, Wrong, check, made, note, stamp};
use crate::{cpu, memory, vm};
use core::ptr::NonNull;
use vmalloc::area::RegionId;
use vmalloc::machine::format::Prot;
use vmalloc::machine::frames::Frames;
use vmalloc::units::{PAGE_SIZE, Pfn};
use vmalloc::{Gfp, Req};

const AREAS: usize = 64;
static TABLE: [[Place; AREAS]; cpu::MAX] = [const { [const { Place::new() }; AREAS] }; cpu::MAX];

/// Sizes of all kinds: classes, and runs of their own.
fn pages(n: usize) -> usize {
    [1, 2, 3, 4, 5, 7, 8, 15, 16, 17, 31, 63, 64, 65, 100, 200][n % 16] + if n == AREAS - 1 { 500 } else { 0 }
}

pub fn what_one_cpu_writes_all_read_through_their_own_tables() -> Outcome {
    for _ in 0..3 {
        cpu::on_all(|cpu| note(make_all(cpu)));
        cpu::on_all(|_| note(read_all()));
        cpu::on_all(|cpu| note(free_all(cpu)));
    }
    Ok(())
}

/// As many as a quarter of the memory is left for.
fn make_all(cpu: usize) -> Outcome {
    let frames = vm().machine().zones();
    for (n, place) in TABLE[cpu].iter().enumerate() {
        if frames.free_now() < frames.total() / 4 {
            break;
        }
        let area = made(pages(n))?;
        through_the_direct_map(&area)?;
        super::put(place, area)?;
    }
    Ok(())
}

/// What was written through the area is in the frames that the library names.
fn through_the_direct_map(area: &Stamped) -> Outcome {
    for page in 0..area.pages {
        let at = area.at.addr().get() + page * PAGE_SIZE;
        let frame = vm().frame_at(at).ok_or(Wrong)?;
        // SAFETY: D1.
        let found = unsafe { memory::direct(frame.phys()).cast::<u64>().read_volatile() };
        check!(found == stamp::first(at, area.salt), "{frame:?}, behind {at:#x}, has {found:#x}");
    }
    Ok(())
}

fn read_all() -> Outcome {
    let started = &TABLE[..cpu::count() as usize];
    started.iter().flatten().filter_map(Place::look).try_for_each(|area| area.verify())
}

/// Each CPU frees what the next one made, half of it; and half of its own.
fn free_all(cpu: usize) -> Outcome {
    let next = (cpu + 1) % cpu::count() as usize;
    let own = TABLE[cpu].iter().take(AREAS / 2);
    let others = TABLE[next].iter().skip(AREAS / 2);
    own.chain(others).filter_map(Place::take).try_for_each(Stamped::free)
}

/// Frames for a test, given back when dropped.
struct Held([Pfn; 3]);

impl Held {
    fn new() -> Result<Held, Wrong> {
        let frame = || vm().alloc_frame(Gfp::KERNEL, None).map_err(|_| Wrong);
        Ok(Held([frame()?, frame()?, frame()?]))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // SAFETY: P3: from `alloc_frame`, and mapped no more.
        self.0.iter().for_each(|&frame| unsafe { vm().free_frame(frame) });
    }
}

pub fn frames_that_are_mapped_twice_are_the_same_memory() -> Outcome {
    let frames = Held::new()?;
    // SAFETY: P1, P4: `frames` holds them.
    let (one, two) = unsafe { (vm().vmap(&frames.0, Req::bytes(0)), vm().map_ram(&frames.0, None)) };
    let (Ok(one), Ok(two)) = (one, two) else {
        println!("  {one:?}, {two:?}");
        return Err(Wrong);
    };
    let salt = stamp::salt();
    stamp::write(one, 3, salt);
    for page in 0..3 {
        // SAFETY: mapped a moment ago.
        let (at, seen) =
            unsafe { (one.add(page * PAGE_SIZE), two.add(page * PAGE_SIZE).cast::<u64>().read_volatile()) };
        check!(seen == stamp::first(at.addr().get(), salt), "page {page} has {seen:#x}");
    }
    // SAFETY: V1: they are used no more.
    let freed = unsafe { (vm().vunmap(one), vm().unmap_ram(two, 3)) };
    check!(freed == (Ok(()), Ok(())), "{freed:?}");
    check!(vm().unmap_aliases(), "a task may wait");
    Ok(())
}

pub fn code_in_the_modules_region_runs_and_cannot_be_written() -> Outcome {
    let frames = Held::new()?;
    // mov eax, 42; ret
    let code = [0xb8u8, 42, 0, 0, 0, 0xc3];
    // SAFETY: our own frame, in the direct map (D1).
    unsafe { memory::direct(frames.0[0].phys()).copy_from_nonoverlapping(NonNull::from(&code).cast(), code.len()) };
    let req = Req::bytes(0).region(RegionId(1)).prot(Prot::RX);
    // SAFETY: P1: `frames` holds them.
    let mapped = unsafe { vm().vmap(&frames.0, req) };
    let at = mapped.map_err(|why| println!("  {why}")).map_err(|()| Wrong)?;
    check!(memory::MODULES.contains(&at.addr().get()), "{at:?} is no address of the region");
    // SAFETY: the code above, which returns a number as C does.
    let answer = unsafe { core::mem::transmute::<NonNull<u8>, extern "C" fn() -> u32>(at)() };
    // SAFETY: nobody's but ours; it faults.
    let stored = unsafe { crate::trap::store(at.addr().get(), 0) };
    // SAFETY: V1: it is used no more.
    let freed = unsafe { vm().vunmap(at) };
    check!(answer == 42 && stored.is_err() && freed.is_ok(), "{answer}, {stored:?}, {freed:?}");
    Ok(())
}

pub fn code_that_is_written_in_place_runs_when_it_cannot_be_written_any_more() -> Outcome {
    // mov eax, 43; ret
    let code = [0xb8u8, 43, 0, 0, 0, 0xc3];
    let made = vm().alloc(Req::pages(2).region(RegionId(1)));
    let at = made.map_err(|why| println!("  {why}")).map_err(|()| Wrong)?;
    // SAFETY: the area is ours.
    unsafe { at.copy_from_nonoverlapping(NonNull::from(&code).cast(), code.len()) };
    // SAFETY: V2: nobody stores to it any more.
    let protected = unsafe { vm().protect(at.addr().get(), 1, Prot::RX) };
    check!(protected.is_ok(), "{protected:?}");
    // SAFETY: the code above, which returns a number as C does.
    let answer = unsafe { core::mem::transmute::<NonNull<u8>, extern "C" fn() -> u32>(at)() };
    let store = |page: usize| {
        // SAFETY: nobody's but ours; it may fault.
        unsafe { crate::trap::store(at.addr().get() + page * 4096, 0) }
    };
    let stored = [store(0), store(1)].map(|stored| stored.is_ok());
    // SAFETY: V1: it is used no more.
    let freed = unsafe { vm().free(at) };
    check!((answer, stored) == (43, [false, true]) && freed.is_ok(), "{answer}, {stored:?}, {freed:?}");
    Ok(())
}
