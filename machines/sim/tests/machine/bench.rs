//! A machine without the library: tables made by hand, so that each rule can
//! be broken on its own.

use std::panic::{AssertUnwindSafe, catch_unwind};
use vmalloc::gfp::ZoneKind;
use vmalloc::machine::format::{Entry, Format, MemType, Prot};
use vmalloc::machine::frames::{Frames, Want};
use vmalloc::machine::{Flush, Machine};
use vmalloc::units::{Node, PAGE_SIZE, Pfn, VirtAddr};
use vmalloc_sim::{Builder, Sim};

pub struct Bench<F: Format> {
    pub sim: Sim<F>,
}

/// A bench whose CPUs are all awake.
pub fn bench<F: Format>(builder: Builder<F>) -> Bench<F> {
    let sim = builder.build();
    sim.online_all(|| {});
    Bench { sim }
}

impl<F: Format> Bench<F> {
    pub fn pinned<R>(&self, act: impl FnOnce() -> R) -> R {
        let pin = self.sim.pin();
        let result = act();
        // SAFETY: the pin above, the youngest again.
        unsafe { self.sim.unpin(pin) }
        result
    }

    pub fn take(&self) -> Pfn {
        let want = Want { zone: ZoneKind::HighMem, ..Want::bookkeeping(Node(0)) };
        self.pinned(|| self.sim.frames().alloc(want)).expect("a frame")
    }

    pub fn give(&self, frame: Pfn) {
        // SAFETY: tests give back what they took, unless they want to see it
        // refused.
        self.pinned(|| unsafe { self.sim.frames().free(frame, 0) })
    }

    pub fn clear(&self, frame: Pfn) {
        // SAFETY: M2, the frame is held.
        unsafe { self.sim.virt(frame).write_bytes(0, PAGE_SIZE) }
    }

    /// Links tables until there is one of `level` for `at`.
    pub fn reach(&self, at: VirtAddr, level: u8) {
        while let (above, Entry::Absent) = self.sim.peek(at)
            && above > level
        {
            let table = self.pinned(|| self.sim.frames().alloc(Want::bookkeeping(Node(0)))).expect("a frame");
            self.clear(table);
            self.sim.poke(at, above, F::table(table, above));
        }
    }

    pub fn bind(&self, at: VirtAddr, frame: Pfn, prot: Prot) {
        self.reach(at, 1);
        self.sim.poke(at, 1, F::leaf(frame, prot, MemType::WriteBack, 1));
    }

    /// Binds a frame of its own to `at`.
    pub fn map(&self, at: VirtAddr) -> Pfn {
        let frame = self.take();
        self.bind(at, frame, Prot::RW);
        frame
    }

    /// The page waits for grace.
    pub fn retire(&self, at: VirtAddr) {
        let (_, Entry::Leaf { frame, prot }) = self.sim.peek(at) else { panic!("{at} is not bound") };
        self.sim.poke(at, 1, F::park(F::leaf(frame, prot, MemType::WriteBack, 1)));
    }

    /// The page is collected.
    pub fn collect(&self, at: VirtAddr) {
        self.sim.poke(at, 1, F::ABSENT);
    }

    /// The table that the entry of `level` for `at` links.
    pub fn table_of(&self, at: VirtAddr, level: u8) -> Pfn {
        match self.sim.entry(at, level) {
            Entry::Table(table) => table,
            other => panic!("no table below level {level} for {at}: {other:?}"),
        }
    }

    pub fn flush(&self, cpu: u32) {
        self.sim.on(cpu, || self.sim.flush(Flush::Everything));
    }

    /// What `act` panics with.
    pub fn story(&self, act: impl FnOnce(&Sim<F>)) -> String {
        story(|| act(&self.sim))
    }
}

/// What `act` panics with.
pub fn story(act: impl FnOnce()) -> String {
    let panic = catch_unwind(AssertUnwindSafe(act)).expect_err("nothing was noticed");
    match panic.downcast::<String>() {
        Ok(story) => *story,
        Err(panic) => panic.downcast_ref::<&str>().expect("a message").to_string(),
    }
}
