//! A machine to copy: what a kernel writes to run `vmalloc`, and where it calls.
//!
//!     cargo run -p vmalloc --example kernel
//!
//! Here a static array is physical memory, and no MMU reads the page tables:
//! areas have addresses, tables and frames, but only frames can be touched.
//! What a real kernel does instead stands behind "Kernel:".

use spin::Mutex;
use std::{cell::UnsafeCell, fmt, ptr::NonNull};
use vmalloc::machine::frames::{Frames, Want};
use vmalloc::machine::{Context, Flush, Level, Machine, Pinned};
use vmalloc::units::{CpuSet, PAGE_SIZE, Pfn};
use vmalloc::{Config, Gfp, Req, Vmalloc};

const FRAMES: usize = 1024;
#[repr(align(4096))]
struct Ram(UnsafeCell<[[u8; PAGE_SIZE]; FRAMES]>);
// SAFETY: whoever holds a frame uses it alone.
unsafe impl Sync for Ram {}
static RAM: Ram = Ram(UnsafeCell::new([[0; PAGE_SIZE]; FRAMES]));

/// A bit a frame, set = out. Kernel: the frame allocator that it has.
static OUT: Mutex<[u64; FRAMES / 64]> = Mutex::new([0; FRAMES / 64]);

struct Kernel;
static VM: Vmalloc<Kernel> = Vmalloc::new(Kernel); // const: touches no memory and no hardware

// SAFETY: F1: a bit is set and cleared under the lock. F2, F4: single frames.
// F3: the library calls pinned. F5: no descriptors. F6: all RAM is below 16 MiB.
unsafe impl Frames for Kernel {
    fn total(&self) -> usize {
        FRAMES
    }
    fn free_now(&self) -> usize {
        OUT.lock().iter().map(|word| word.count_zeros() as usize).sum()
    }
    fn is_ram(&self, frame: Pfn) -> bool {
        frame.0 < FRAMES as u64 // Kernel: by the memory map
    }
    fn alloc(&self, want: Want) -> Option<Pfn> {
        let mut out = OUT.lock();
        let word = out.iter().position(|&word| want.order == 0 && word != u64::MAX)?;
        let bit = out[word].trailing_ones();
        out[word] |= 1 << bit;
        Some(Pfn(word as u64 * 64 + bit as u64))
    }
    unsafe fn free(&self, first: Pfn, _order: u8) {
        OUT.lock()[first.0 as usize / 64] &= !(1 << (first.0 % 64));
    }
    fn highest_zone(&self) -> vmalloc::gfp::ZoneKind {
        vmalloc::gfp::ZoneKind::Dma // Kernel: Normal, and `alloc` heeds `want.zone`
    }
    // Kernel, if it likes: `alloc_bulk` and `free_bulk`, one lock for many.
}

// SAFETY: M1: nobody else maps in the region. M2: RAM is static. M3, M4, M7:
// one CPU. M5: `main` may wait. M6: nothing is cached. M8: no method calls
// back. M9: `boot` comes first.
unsafe impl Machine for Kernel {
    type Table = vmalloc::table::X86_64; // or X86_32, or a format of your own
    type Frames = Self; // or the library's buddy allocator, `frames::Zones`
    type Lock = Mutex<()>;

    fn frames(&self) -> &Self {
        self
    }
    fn root(&self) -> Pfn {
        Pfn(0) // Kernel: the frame in CR3; all roots share its entries for the region
    }
    fn virt(&self, f: Pfn) -> NonNull<u8> {
        // SAFETY: the library asks for frames of ours. Kernel: the direct map.
        unsafe { NonNull::new_unchecked(RAM.0.get().cast::<u8>().add(f.phys() as usize)) }
    }
    fn cpus(&self) -> u32 {
        1 // Kernel: as many as may ever come online
    }
    fn pin(&self) -> Pinned {
        Pinned { cpu: 0, saved: 0 } // Kernel: save RFLAGS, cli, read the CPU's number
    }
    unsafe fn unpin(&self, _was: Pinned) {} // Kernel: restore `saved`
    fn context(&self) -> Context {
        Context::Task // Kernel: from the preemption count
    }
    fn flush(&self, _what: Flush<'_>) {} // Kernel: CR4.PGE off and on (global entries go too), or INVPCID type 2
    fn kick(&self, _cpus: &CpuSet) {} // Kernel: an IPI to each, whose handler calls `VM.on_kick()`
    fn log(&self, _: Level, line: fmt::Arguments<'_>) {
        println!("log: {line}");
    }
}

/// Kernel: after the direct map and the frame allocator, before anything else.
fn boot() {
    OUT.lock()[0] = 1; // the root table's frame
    let region = 0xffff_c900_0000_0000..0xffff_e900_0000_0000;
    // SAFETY: N1: the region is new. N2: once, on the boot CPU.
    unsafe { VM.init(Config::region(region).atomic_reserve(16)) }.expect("vmalloc");
    VM.cpu_online(); // every other CPU too, when its own CR3 is final
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    boot();
    let ring = VM.alloc(Req::bytes(5000).zeroed())?;
    let stack = VM.alloc(Req::stack(4).gfp(Gfp::ATOMIC | Gfp::ZERO))?; // from an interrupt, too
    println!("ring {ring:?} is on {:?}, stack {stack:?}", VM.frame_at(ring.addr().get()));
    println!("page fault at {:#x}: {}", stack.addr().get() - 8, VM.whatis(stack.addr().get() - 8));
    let mut listing = String::new(); // Kernel: the serial line, which is enough after a panic
    VM.list(&mut listing)?;
    print!("{listing}");
    // SAFETY: V1: nobody uses the ring any more.
    unsafe { VM.free(ring) }?;
    println!("page fault at {ring:?}: {}", VM.whatis(ring.addr().get()));
    // SAFETY: this is refused, so nothing is given up.
    println!("freed again: {}", unsafe { VM.free(ring) }.expect_err("a double free"));
    // Kernel: the timer on every CPU calls `if VM.tick().work { wake(worker) }`, the worker
    // `VM.work()`, the idle loop `VM.idle_enter()` and `VM.idle_exit()`, low memory `VM.reclaim(n)`.
    println!("purged {} pages; {} of {FRAMES} frames are free", VM.purge(), VM.machine().free_now());
    Ok(VM.check()?)
}
