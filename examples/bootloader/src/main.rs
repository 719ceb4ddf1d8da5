//! A kernel in the shape of those that the crate `bootloader` starts: one CPU, all memory mapped at
//! an offset, a memory map in the boot information.
//!
//!     cargo run --manifest-path examples/bootloader/Cargo.toml
//!
//! `vm.rs` is what such a kernel adds to embed `vmalloc`. `stubs.rs` stands for the crates
//! `bootloader` and `x86_64`, and plays the boot loader: memory is a static array, and no MMU reads
//! the tables.

mod stubs;
mod vm;

use stubs::BootInfo;
use vm::VM;
use vmalloc::{AllocError, Req, What};

fn main() {
    let boot_info = stubs::boot();
    kernel_main(boot_info).expect("memory");
}

/// What `entry_point!` names.
fn kernel_main(boot_info: &'static BootInfo) -> Result<(), AllocError> {
    vm::init(boot_info);
    let free = VM.machine().free();
    let before = free();
    let stack = VM.alloc(Req::stack(4))?;
    vm::page_fault(stack.as_ptr() as usize - 8);
    let ring = VM.alloc(Req::bytes(5000).zeroed())?;
    println!("the ring is on {:?}", VM.frame_at(ring.as_ptr() as usize));
    for area in [stack, ring].iter() {
        // SAFETY: V1: nobody uses them any more.
        unsafe { VM.free(*area) }.expect("an area");
    }
    assert!(matches!(VM.whatis(ring.as_ptr() as usize), What::Freed { .. }));
    vm::timer();
    vm::work();
    VM.purge();
    VM.reclaim(usize::MAX);
    VM.check().expect("every rule holds");
    assert_eq!(VM.stats().pages, 0);
    println!("{} of {} frames are free", free(), before);
    Ok(())
}
