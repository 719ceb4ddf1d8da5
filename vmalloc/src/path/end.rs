//! The end of an instance: what lives is freed, and every table taken out (I3).

use crate::area::Caller;
use crate::machine::Machine;
use crate::machine::prealloc::Prealloc;
use crate::path::free::free;
use crate::state::core::Ctx;
use crate::state::visit::Visit;

impl<M: Machine> Ctx<'_, M> {
    /// Frees all that lives, and waits for it (I3).
    pub(crate) fn free_everything(self) {
        let by = Caller::here();
        for area in self.areas() {
            // Reservations, devices and memory alike, each the way of its kind:
            // nobody is left to use it.
            let _ = free(Some(self), area.start, by, |_| true, None);
        }
        self.purge();
    }

    /// Takes every table but the root out of the tree, and waits until no CPU
    /// can walk into one; `None` if that does not come to pass.
    pub(crate) fn unlink_tables(self) -> Option<Prealloc> {
        let mut tables = Prealloc::new();
        self.pinned(|_| {
            for region in &self.core.regions {
                let walker = self.walker();
                walker.free_tables(walker.widened(region.pages()), &mut |table| tables.put(self.machine, table));
            }
        });
        self.wait_for_grace(true).then_some(tables)
    }

    /// Whether nothing waits and nothing lives any more.
    pub(crate) fn is_drained(self) -> bool {
        (0..self.core.cpus()).all(|index| {
            Visit::enter(self, index).is_ok_and(|mut cpu| {
                while cpu.drain_remote_frees() {}
                cpu.is_drained() && cpu.cpu.cache_size.pages() == 0
            })
        }) && self.areas().next().is_none()
    }
}
