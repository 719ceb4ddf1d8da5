//! What happens by time: ticks, purges, CPUs that come and go.

use super::hand::Hand;
use vmalloc::Policy;
use vmalloc::machine::format::Format;
use vmalloc::machine::{Context, Machine};
use vmalloc_sim::Power;

impl<F: Format, const ALIASES: bool> Hand<'_, F, ALIASES> {
    /// One of the things below, by its share of 90.
    pub fn pass_time(&self, which: usize) {
        match which {
            0..40 => self.tick(),
            40..43 => drop(self.vm.work()),
            43..46 => self.purge(),
            46 => self.flush_aliases(),
            47 => drop(self.vm.reclaim(self.below(64))),
            48..62 => self.change_power(self.below(self.setup().cpus as usize) as u32),
            62..64 => self.set_policy(),
            _ => (0..8).for_each(|_| self.sim().step()),
        }
    }

    /// What a run is about most of the time; and what was cached is retired.
    fn set_policy(&self) {
        let all = [Policy::Unmap, Policy::Strict, Policy::Park, Policy::Keep];
        let policy = if self.one_in(4) { self.pick(&all) } else { self.setup().policy };
        self.vm.set_policy(policy);
    }

    fn tick(&self) {
        if self.vm.tick().work && self.one_in(2) {
            self.vm.work();
        }
    }

    /// After a purge that may wait, everything freed before it faults.
    fn purge(&self) {
        let (free, waits) = (self.model().frees(), self.sim().context() == Context::Task);
        self.vm.purge();
        if waits {
            self.model().flushed_up_to(free);
        }
    }

    pub fn flush_aliases(&self) {
        let free = self.model().frees();
        self.sim().set_context(Context::Task);
        self.vm.unmap_aliases();
        self.model().flushed_up_to(free);
    }

    /// A CPU falls asleep, wakes up, leaves or comes back; one stays awake.
    pub fn change_power(&self, cpu: u32) {
        let (sim, vm) = (self.sim(), self.vm);
        match sim.power(cpu) {
            Power::Idle => sim.wake(cpu, || vm.idle_exit()),
            Power::Offline => sim.online(cpu, || vm.cpu_online()),
            Power::Awake if cpu == sim.cpu() => {}
            Power::Awake if self.one_in(4) => sim.offline(cpu, || vm.cpu_offline()),
            Power::Awake => sim.sleep(cpu, || vm.idle_enter()),
        }
    }
}
