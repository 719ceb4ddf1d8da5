//! The text of Linux's own events, as ftrace and `trace-cmd report` print them, made into lines of a
//! trace.
//!
//! ```text
//!   bash-812  [001] .....  120.100001: alloc_vmap_area: va_start: 184… size=20480 align=16384 vstart=0x… vend=0x… failed=0
//!   kworker-9 [000]        120.200002: free_vmap_area_noflush: va_start=0x… nr_lazy=5 nr_lazy_max=65536
//!   kworker-9 [000] .....  120.300003: purge_vmap_area_lazy: start=0x… end=0x… num_purged=1
//! ```
//!
//! They say less than a trace does: not who asked, nor what for, nor of what size is what is freed. The
//! last of these is known from the allocation. A recording begins on a running machine, so that what was made
//! before is freed in it: such frees are counted and passed over ([`Late`]).

use super::error::Reason;
use super::line::{self, number};
use super::source::shortened;
use super::{Op, Pcpu};
use std::collections::{BTreeMap, HashMap};

/// What the text has left out.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Late {
    /// Frees of what was made before.
    pub frees: u64,
    /// Lines of other events.
    pub others: u64,
}

/// Makes lines of a trace.
#[derive(Default)]
pub struct Converter {
    /// The sizes of live areas, by address.
    live: BTreeMap<u64, u64>,
    /// The pages of short-lived mappings, by address.
    mapped: HashMap<u64, u64>,
    /// Chunks, by their shape.
    chunks: HashMap<Pcpu, i64>,
    /// Where the first area that was made had to lie.
    pub within: Option<(u64, u64)>,
    pub late: Late,
}

/// One event, as its words are.
struct Event<'t> {
    task: &'t str,
    cpu: u64,
    time_ns: u64,
    name: &'t str,
    fields: &'t str,
}

/// Whether `text` is a line of this form, of whatever event.
pub fn is_one(text: &str) -> bool {
    Event::split(text).is_some()
}

impl<'t> Event<'t> {
    /// The words of a line, if it has this form.
    fn split(text: &'t str) -> Option<Event<'t>> {
        let (task, rest) = text.split_once(" [")?;
        let (cpu, rest) = rest.split_once(']')?;
        let (head, rest) = rest.split_once(": ")?;
        // Between CPU and time there may be flags.
        let time = head.split_whitespace().next_back()?;
        let (seconds, fraction) = time.split_once('.')?;
        let digits =
            |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse::<u64>().ok()).flatten();
        let fraction =
            digits(fraction).filter(|_| (1..=9).contains(&fraction.len()))? * 10u64.pow(9 - fraction.len() as u32);
        let (name, fields) = rest.trim_start().split_once(':')?;
        let time_ns = digits(seconds)?.checked_mul(1_000_000_000)?.checked_add(fraction)?;
        Some(Event { task: task.trim(), cpu: digits(cpu)?, time_ns, name, fields: fields.trim() })
    }

    /// The number behind `key=` or `key: `.
    fn number(&self, key: &'static str) -> Result<u64, Reason> {
        let mut words = self.fields.split([' ', '=', ':']).filter(|word| !word.is_empty());
        words.find(|word| *word == key).ok_or(Reason::Missing { op: "the event", key })?;
        number(key, words.next().ok_or(Reason::Missing { op: "the event", key })?)
    }
}

impl Converter {
    /// Knows an area that was made before the first event.
    pub fn begin(&mut self, addr: u64, size: u64) {
        self.live.insert(addr, size);
    }

    /// The line of a trace that `text` stands for; none where it is passed over.
    ///
    /// # Errors
    /// It is no line of this form, or one of its numbers is none.
    pub fn line(&mut self, text: &str) -> Result<Option<String>, Reason> {
        let event = Event::split(text).ok_or_else(|| Reason::NoEvent(shortened(text)))?;
        let op = match event.name {
            "alloc_vmap_area" => Some(self.alloc(&event)?),
            "free_vmap_area_noflush" => self.free(&event)?,
            "purge_vmap_area_lazy" => {
                let (start, end, areas) = (event.number("start")?, event.number("end")?, event.number("num_purged")?);
                Some(format!("purge areas={areas} start={start:#x} end={end:#x}"))
            }
            _ => {
                self.late.others += 1;
                None
            }
        };
        Ok(op.map(|op| format!("{} {} {op} task={}", event.time_ns, event.cpu, event.task)))
    }

    /// As [`Converter::line`], of a line that is one of a trace already.
    ///
    /// # Errors
    /// As there.
    pub fn own(&mut self, text: &str) -> Result<Option<String>, Reason> {
        let is_known = match line::parse(text)?.op {
            Op::Alloc(alloc) => {
                self.live.insert(alloc.addr, alloc.size);
                self.within.get_or_insert((alloc.within.start, alloc.within.end - 1));
                true
            }
            Op::MapRam { addr, pages, own } => {
                let is_known = own || self.live.range(..=addr).next_back().is_some_and(|(at, size)| addr < at + size);
                if is_known {
                    self.mapped.insert(addr, pages);
                }
                is_known
            }
            Op::UnmapRam { addr, .. } => self.mapped.remove(&addr).is_some(),
            Op::Defer { addr } => self.live.contains_key(&addr),
            Op::Free { addr, .. } => self.live.remove(&addr).is_some(),
            Op::PcpuAlloc(chunk) => {
                *self.chunks.entry(chunk).or_default() += 1;
                true
            }
            Op::PcpuFree(chunk) => {
                let left = self.chunks.entry(chunk).or_default();
                let is_known = *left > 0;
                *left -= i64::from(is_known);
                is_known
            }
            Op::Purge | Op::Mark(_) | Op::Fail => true,
        };
        self.late.frees += u64::from(!is_known);
        Ok(is_known.then(|| text.to_owned()))
    }

    fn alloc(&mut self, event: &Event<'_>) -> Result<String, Reason> {
        if event.number("failed")? != 0 {
            return Ok("fail".to_owned());
        }
        let (addr, size, align) = (event.number("va_start")?, event.number("size")?, event.number("align")?);
        let (start, end) = (event.number("vstart")?, event.number("vend")?);
        self.live.insert(addr, size);
        self.within.get_or_insert((start, end));
        Ok(format!("alloc addr={addr:#x} size={size} align={align} kind=? vstart={start:#x} vend={end:#x} caller=?"))
    }

    fn free(&mut self, event: &Event<'_>) -> Result<Option<String>, Reason> {
        let addr = event.number("va_start")?;
        let Some(size) = self.live.remove(&addr) else {
            self.late.frees += 1;
            return Ok(None);
        };
        Ok(Some(format!("free addr={addr:#x} size={size} kind=? by=? caller=?")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALLOC: &str = "            bash-812     [001] .....   120.100001: alloc_vmap_area: va_start: 18446683600570023936 \
                         size=20480 align=16384 vstart=0xffffc90000000000 vend=0xffffe8ffffffffff failed=0";
    const FREE: &str = "kworker/0:1-9 [000] 120.200002: free_vmap_area_noflush: va_start=0xffffc90000000000 nr_lazy=5 nr_lazy_max=65536";
    const PURGE: &str = "a b-9 [003] d..1. 120.300003: purge_vmap_area_lazy: start=0xffffc90000000000 end=0xffffc90000005000 num_purged=1";

    #[test]
    fn the_three_events_become_lines_with_and_without_flags() {
        let mut converter = Converter::default();
        let mut line = |text| converter.line(text).unwrap().unwrap();
        assert_eq!(
            line(ALLOC),
            "120100001000 1 alloc addr=0xffffc90000000000 size=20480 align=16384 kind=? vstart=0xffffc90000000000 \
             vend=0xffffe8ffffffffff caller=? task=bash-812"
        );
        let free = "120200002000 0 free addr=0xffffc90000000000 size=20480 kind=? by=? caller=? task=kworker/0:1-9";
        assert_eq!(line(FREE), free);
        let purge = "120300003000 3 purge areas=1 start=0xffffc90000000000 end=0xffffc90000005000 task=a b-9";
        assert_eq!(line(PURGE), purge);
        assert_eq!(line(&ALLOC.replace("failed=0", "failed=1")), "120100001000 1 fail task=bash-812");
        assert_eq!(converter.late, Late::default());
    }

    #[test]
    fn what_was_made_before_is_passed_over_or_known() {
        let mut converter = Converter::default();
        assert_eq!(converter.line(FREE), Ok(None));
        converter.begin(0xffff_c900_0000_0000, 8192);
        let line = converter.line(FREE).unwrap().unwrap();
        assert!(line.contains("size=8192"), "{line}");
        assert_eq!(converter.line("a-1 [000] ..... 1.5: sched_switch: prev=a"), Ok(None));
        assert_eq!(converter.late, Late { frees: 1, others: 1 });
    }

    #[test]
    fn a_trace_that_was_begun_late_loses_what_it_frees_of_before() {
        let mut converter = Converter::default();
        let mut kept = |text: &str| converter.own(text).unwrap().is_some();
        let alloc = "1 0 alloc addr=0x4000 size=8192 align=1 kind=vb vstart=0x0 vend=0xffff caller=f";
        assert!(!kept("1 0 free addr=0x4000 size=4096 kind=?") && !kept("1 0 defer addr=0x4000"));
        assert!(!kept("1 0 map_ram addr=0x4000 count=1") && !kept("1 0 unmap_ram addr=0x4000 count=1"));
        assert!(kept(alloc) && kept("2 0 map_ram addr=0x5000 count=1") && kept("3 0 unmap_ram addr=0x5000 count=1"));
        assert!(kept("3 0 defer addr=0x4000") && kept("4 0 free addr=0x4000 size=8192 kind=vb"));
        assert!(!kept("5 0 free addr=0x4000 size=8192 kind=vb"), "once");
        let chunk = |op: &str| format!("6 0 {op} size=4096 nr=2 align=4096");
        assert!(!kept(&chunk("pcpu_free")) && kept(&chunk("pcpu_alloc")) && kept(&chunk("pcpu_free")));
        assert!(kept("7 0 map_ram addr=0x9000 count=1 own=1") && kept("8 0 purge") && !kept(&chunk("pcpu_free")));
        assert_eq!(converter.late.frees, 7);
    }

    #[test]
    fn lines_of_another_form_are_told_apart() {
        assert!([ALLOC, FREE, PURGE].into_iter().all(is_one));
        for other in [
            "5 1 free addr=0x4000",
            "",
            "cpus=2",
            "0xffff-0xfffff 4096 a+0x1 [m] vmalloc",
            "a [x] 1.5: b: c",
            "a-1 [0] 1: b: c",
        ] {
            assert!(!is_one(other), "{other:?}");
        }
        let refused = |text: &str| Converter::default().line(text).unwrap_err().to_string();
        assert_eq!(refused(&ALLOC.replace("size=20480", "size=2x")), "the size is not a number: \"2x\"");
        assert_eq!(refused(&ALLOC.replace("align=16384 ", "")), "the key \"align\" is missing from \"the event\"");
    }
}
