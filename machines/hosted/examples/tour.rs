//! A tour of vmalloc in a process: allocate, look at the frames behind an area,
//! map them a second time, hit a guard, read the listing.
//!
//!     cargo run -p vmalloc-hosted --example tour

use std::error::Error;
use vmalloc::machine::format::Prot;
use vmalloc::units::Pfn;
use vmalloc::{Policy, Req};
use vmalloc_hosted::{builder, is_readable};

fn main() -> Result<(), Box<dyn Error>> {
    let vm = builder().memory(256 << 20).policy(Policy::Strict).build()?;
    println!("{:?}\n", vm.machine());

    // An area: cleared memory that derefs to bytes and frees itself.
    let mut letters = vm.area(Req::bytes(10_000))?;
    letters[..5].copy_from_slice(b"hello");
    println!("an area of {} bytes at {}", letters.bytes(), letters.start());

    // Behind it are frames: real ones, with numbers.
    let frames: Vec<Pfn> = letters.frames().collect();
    println!("its frames: {frames:?}");

    // They can be mapped a second time, here the other way round and read-only.
    let mirrored: Vec<Pfn> = frames.iter().rev().copied().collect();
    // SAFETY: P1: the area holds the frames.
    let view = unsafe { vm.vmap(&mirrored, Req::bytes(0).prot(Prot::RO)) }?;
    // SAFETY: the last page of the view is the first of the area.
    let same = unsafe { std::slice::from_raw_parts(view.as_ptr().add(8192), 5) };
    println!("mapped again at {view:?}: {:?}", std::str::from_utf8(same)?);

    // One step too far is a guard: a load would fault, so the kernel is asked instead.
    let end = letters.start().0 + 3 * 4096;
    let beyond = std::ptr::with_exposed_provenance(end);
    assert!(is_readable(std::ptr::with_exposed_provenance(end - 1)) && !is_readable(beyond));
    println!("{end:#x} cannot be read: {}", vm.whatis(end));

    println!("\nthe listing:");
    let mut listing = String::new();
    vm.list(&mut listing)?;
    print!("{listing}");

    // A use after free under `Strict` faults, and the address knows why.
    let start = letters.start().0;
    drop(letters);
    assert!(!is_readable(std::ptr::with_exposed_provenance(start)));
    println!("\n{start:#x} cannot be read: {}", vm.whatis(start));

    // The view still can: it holds the frames.
    // SAFETY: mapped until the next line.
    assert_eq!(unsafe { view.add(8192).read() }, b'h');
    // SAFETY: nobody uses the view any more.
    unsafe { vm.vunmap(view) }?;
    println!("areas left: {}, VMAs: {:?}", vm.areas().count(), vm.machine().vmas());
    Ok(())
}
