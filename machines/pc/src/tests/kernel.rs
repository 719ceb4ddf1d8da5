//! The traditional subsystem around the library, through the translation of the hardware.

use super::faults::nothing_is_reached;
use super::random::Random;
use super::table::{Place, Stamped};
use super::{Outcome, Wrong, check, note, stamp};
use crate::machine::Pc;
use crate::trap::{self, Fault};
use crate::{cpu, memory, vm};
use core::ptr::{NonNull, with_exposed_provenance};
use spin::Once;
use vmalloc::units::{PAGE_SIZE, Pfn};
use vmalloc_kernel::{Bare, Error, GfpFlags, Kernel, Level, Pgprot, RCU_HEAD, VmFlags};

const GFP: GfpFlags = GfpFlags::KERNEL;

/// The subsystem, for all CPUs. What it keeps for the next request stays its own.
fn kernel() -> &'static Kernel<'static, Pc> {
    static KERNEL: Once<Kernel<'static, Pc>> = Once::new();
    KERNEL.call_once(|| Kernel::new(vm(), Bare))
}

/// Whatever was refused is printed.
fn right<T>(made: Result<T, Error>) -> Result<T, Wrong> {
    made.map_err(|why| {
        println!("  refused: {why}");
        Wrong
    })
}

fn vfree(area: NonNull<u8>) -> Outcome {
    // SAFETY: Y1: whoever has it uses it no more, but for probes, which may fault.
    right(unsafe { kernel().vfree(area.as_ptr()) })
}

/// The area that all CPUs look at.
static AREA: Place = Place::new();

fn read() -> Outcome {
    AREA.look().map_or(Ok(()), |area| area.verify())
}

pub fn each_age_makes_memory_that_every_cpu_reads_and_that_faults_after_its_end() -> Outcome {
    type Make = fn(usize) -> Result<NonNull<u8>, Error>;
    let makes: [Make; 4] = [
        |bytes| kernel().v2_6().vmalloc(bytes),
        |bytes| kernel().v3_0().vmalloc(bytes),
        |bytes| kernel().v4().vmalloc(bytes),
        |bytes| kernel().vmalloc(bytes),
    ];
    for (make, pages) in makes.into_iter().flat_map(|make| [(make, 5), (make, 600)]) {
        let at = right(make(pages * PAGE_SIZE - 9))?;
        let salt = stamp::salt();
        stamp::write(at, pages, salt);
        let guard = at.addr().get() + pages * PAGE_SIZE;
        check!(trap::load(guard) == Err(Fault { at: guard }), "the guard at {guard:#x} can be read");
        let view = kernel().find_vm_area(at.addr().get()).ok_or(Wrong)?;
        check!((view.nr_pages, view.size) == (pages, (pages + 1) * PAGE_SIZE), "{view:?}");
        super::put(&AREA, Stamped { at, pages, salt })?;
        cpu::on_all(|_| note(read()));
        vfree(at)?;
        vm().purge();
        cpu::on_all(|_| note(nothing_is_reached(&AREA)));
        AREA.take();
    }
    Ok(())
}

pub fn the_walk_by_level_leads_where_the_hardware_goes() -> Outcome {
    let area = right(kernel().vmalloc(3 * PAGE_SIZE))?;
    for page in 0..3 {
        let at = area.addr().get() + page * PAGE_SIZE;
        // SAFETY: Y7: the area is held.
        let path = unsafe { kernel().walk(at) };
        check!(path.down().count() == Level::DOWN.len(), "{} levels", path.down().count());
        let pte = path.entry(Level::Pte).ok_or(Wrong)?;
        let frame = kernel().vmalloc_to_page(at).ok_or(Wrong)?;
        check!(pte.leaf() && pte.word() & 0x000f_ffff_ffff_f000 == frame.phys(), "{pte:?} is not of {frame:?}");
        // SAFETY: the area is the test's.
        unsafe { area.add(page * PAGE_SIZE).cast::<u64>().write_volatile(at as u64) };
        // SAFETY: D1.
        let found = unsafe { memory::direct(frame.phys()).cast::<u64>().read_volatile() };
        check!(found == at as u64, "{frame:?} has {found:#x}");
    }
    vfree(area)
}

pub fn parts_of_a_sparse_area_come_and_go_and_holes_fault() -> Outcome {
    let area = right(kernel().get_vm_area(100 * PAGE_SIZE, VmFlags::SPARSE))?;
    let mut frames = [Pfn(0); 8];
    for frame in &mut frames {
        *frame = right(kernel().alloc_page(GFP, None))?;
    }
    let (start, end) = (area.addr + 40 * PAGE_SIZE, area.addr + 48 * PAGE_SIZE);
    for _ in 0..3 {
        // SAFETY: Y3: the frames are the test's, and nobody else knows the area.
        right(unsafe { kernel().vm_area_map_pages(&area, start, end, &frames) })?;
        let at = NonNull::new(core::ptr::with_exposed_provenance_mut(start)).ok_or(Wrong)?;
        let salt = stamp::salt();
        stamp::write(at, 8, salt);
        super::put(&AREA, Stamped { at, pages: 8, salt })?;
        cpu::on_all(|_| note(read()));
        for hole in [start - 8, end] {
            check!(trap::load(hole) == Err(Fault { at: hole }), "the hole at {hole:#x} can be read");
        }
        // SAFETY: Y1, Y3: as above.
        right(unsafe { kernel().vm_area_unmap_pages(&area, start, end) })?;
        cpu::on_all(|_| note(nothing_is_reached(&AREA)));
        AREA.take();
    }
    // SAFETY: P3: they are the test's.
    frames.into_iter().for_each(|frame| unsafe { vm().free_frame(frame) });
    // SAFETY: Y1: nobody uses it.
    right(unsafe { kernel().free_vm_area(&area) })
}

/// The area at `area` with `pages` pages.
fn resized(area: NonNull<u8>, pages: usize) -> Result<NonNull<u8>, Wrong> {
    // SAFETY: Y4: only what is returned is used.
    right(unsafe { kernel().vrealloc(area.as_ptr(), pages * PAGE_SIZE, GFP) })?.ok_or(Wrong)
}

pub fn an_area_that_is_resized_keeps_its_bytes_and_gives_its_tail_back() -> Outcome {
    for (small, large) in [(1, 4), (3, 70), (65, 700)] {
        let area = right(kernel().vmalloc(small * PAGE_SIZE))?;
        // SAFETY: the area is the test's.
        let word = |at: NonNull<u8>, page: usize| unsafe { at.add(page * PAGE_SIZE).cast::<u64>() };
        // SAFETY: as above.
        (0..small).for_each(|page| unsafe { word(area, page).write_volatile(page as u64 ^ 0x77) });
        let grown = resized(area, large)?;
        let shrunk = resized(grown, small)?;
        check!(shrunk == grown, "it shrinks in place");
        for page in 0..small {
            // SAFETY: as above.
            let found = unsafe { word(shrunk, page).read_volatile() };
            check!(found == page as u64 ^ 0x77, "page {page} has {found:#x}");
        }
        vm().purge();
        let tail = shrunk.addr().get() + small * PAGE_SIZE;
        check!(trap::load(tail) == Err(Fault { at: tail }), "the tail at {tail:#x} can be read");
        vfree(shrunk)?;
    }
    Ok(())
}

pub fn cpus_share_the_slab_and_blocks_wait_for_their_grace_period() -> Outcome {
    cpu::on_all(|cpu| note(use_objects(cpu)));
    right(kernel().kvfree_rcu_barrier())
}

/// Objects of many sizes, freed at once or after a grace period.
fn use_objects(cpu: usize) -> Outcome {
    let mut random = Random::new(cpu as u64 + 1);
    let mut live = [None; 32];
    for round in 0..600 {
        let place = &mut live[round % 32];
        if let Some((object, size)) = place.take() {
            give_object(object, size, cpu, random.below(3))?;
        }
        let size = 1 + random.below(2500);
        let object = right(kernel().kmalloc(size, GFP))?;
        // SAFETY: the object has so many bytes.
        unsafe { object.as_ptr().write_bytes(cpu as u8 + 1, size) };
        *place = Some((object, size));
    }
    live.into_iter().flatten().try_for_each(|(object, size)| give_object(object, size, cpu, 0))
}

fn give_object(object: NonNull<u8>, size: usize, cpu: usize, how: usize) -> Outcome {
    let at = object.as_ptr();
    for byte in [0, size / 2, size - 1] {
        // SAFETY: the object has so many bytes.
        let found = unsafe { at.add(byte).read_volatile() };
        check!(found == cpu as u8 + 1, "byte {byte} of an object of {size} has {found}");
    }
    // SAFETY: Y1: nobody uses it any more.
    right(unsafe {
        match how {
            1 if size >= RCU_HEAD => kernel().kvfree_rcu(at, at.addr()),
            2 => kernel().kvfree_rcu_mightsleep(at),
            _ => kernel().kfree(at),
        }
    })
}

pub fn a_reader_of_devices_and_holes_reads_zeros() -> Outcome {
    // The interrupt controller's page, which every machine of this kind has.
    let device = right(kernel().ioremap_uc(0xfee0_0000, PAGE_SIZE))?;
    let area = right(kernel().vzalloc(PAGE_SIZE))?;
    // SAFETY: the area is the test's.
    unsafe { area.as_ptr().write_bytes(9, 16) };
    let mut bytes = [1; 16];
    let read = right(kernel().vread(&mut bytes, device.addr().get()))?;
    check!((read, bytes) == (16, [0; 16]), "a device reads as {bytes:?}");
    check!(right(kernel().vread(&mut bytes, area.addr().get()))? == 16 && bytes == [9; 16], "{bytes:?}");
    let hole = area.addr().get() + PAGE_SIZE;
    check!(right(kernel().vread(&mut bytes, hole))? == 0 && bytes == [0; 16], "a guard reads as {bytes:?}");
    let prot = Pgprot::KERNEL;
    // SAFETY: Y6: nothing is mapped, since that is memory.
    let refused = unsafe { kernel().vmap_pfn(&[kernel().vmalloc_to_page(area.addr().get()).ok_or(Wrong)?], prot) };
    check!(matches!(refused, Err(Error::HasDescriptor(_))), "{refused:?}");
    vfree(area)?;
    // SAFETY: Y1: nobody uses it.
    right(unsafe { kernel().iounmap(with_exposed_provenance(device.addr().get())) })
}
