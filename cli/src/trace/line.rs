//! One line of a trace: `time_ns cpu op key=value ...`
//!
//! Numbers are decimal, or hexadecimal with `0x`. The values of `task` and
//! `text` run to the end of the line, since a task's name may have spaces.
//! Keys that nobody asks for are passed over.

use super::error::Reason;
use super::source::shortened;
use super::{Alloc, Event, Kind, Op, Pcpu};
use std::ops::Range;
use vmalloc::units::PAGE_SIZE;

const PAGE: u64 = PAGE_SIZE as u64;
/// The recorded kernel's `VM_IOREMAP`.
const VM_IOREMAP: u64 = 0x1;
/// The recorded kernel's `__GFP_ZERO`.
const GFP_ZERO: u64 = 0x100;

/// What the line `text` says.
pub fn parse(text: &str) -> Result<Event<'_>, Reason> {
    let mut words = text.splitn(4, ' ');
    let (Some(time), Some(cpu), Some(op)) = (words.next(), words.next(), words.next()) else {
        return Err(Reason::NoEvent(shortened(text)));
    };
    let time_ns = number("time", time)?;
    let cpu = cpu_index(number("CPU", cpu)?)?;
    let fields = Fields::split(words.next().unwrap_or(""))?;
    Ok(Event { time_ns, cpu, op: fields.op(op)? })
}

/// Whether there are as many is for whoever plays them on fewer to say.
fn cpu_index(cpu: u64) -> Result<u32, Reason> {
    u32::try_from(cpu).ok().filter(|&cpu| cpu < u32::MAX).ok_or(Reason::Huge { what: "the CPU", value: cpu })
}

/// The number that `text` is; an error calls it `what`.
pub fn number(what: &'static str, text: &str) -> Result<u64, Reason> {
    let digits = |text: &str, radix| {
        // `from_str_radix` would let a sign pass.
        if text.starts_with('+') { None } else { u64::from_str_radix(text, radix).ok() }
    };
    let value = match text.strip_prefix("0x") {
        Some(hex) => digits(hex, 16),
        None => digits(text, 10),
    };
    value.ok_or_else(|| Reason::NotANumber { what, text: shortened(text) })
}

struct Fields<'a>(Vec<(&'a str, &'a str)>);

impl<'a> Fields<'a> {
    fn split(mut rest: &'a str) -> Result<Fields<'a>, Reason> {
        let mut pairs: Vec<(&str, &str)> = Vec::with_capacity(12);
        while !rest.is_empty() {
            let word = rest.split(' ').next().unwrap_or(rest);
            let (key, after) = match word.find('=') {
                Some(at @ 1..) => (&rest[..at], &rest[at + 1..]),
                _ => return Err(Reason::NotAPair(shortened(word))),
            };
            if pairs.iter().any(|pair| pair.0 == key) {
                return Err(Reason::TwoOf(shortened(key)));
            }
            let to_the_end = matches!(key, "task" | "text");
            let (value, next) = if to_the_end { (after, "") } else { after.split_once(' ').unwrap_or((after, "")) };
            pairs.push((key, value));
            rest = next;
        }
        Ok(Fields(pairs))
    }

    fn get(&self, key: &str) -> Option<&'a str> {
        self.0.iter().find(|pair| pair.0 == key).map(|pair| pair.1)
    }

    fn need(&self, op: &'static str, key: &'static str) -> Result<&'a str, Reason> {
        self.get(key).ok_or(Reason::Missing { op, key })
    }

    fn number(&self, op: &'static str, key: &'static str) -> Result<u64, Reason> {
        number(key, self.need(op, key)?)
    }

    fn maybe(&self, key: &'static str) -> Result<Option<u64>, Reason> {
        self.get(key).map(|text| number(key, text)).transpose()
    }

    fn op(&self, word: &str) -> Result<Op<'a>, Reason> {
        Ok(match word {
            "alloc" => Op::Alloc(self.alloc()?),
            "free" => self.free()?,
            "defer" => Op::Defer { addr: self.number("defer", "addr")? },
            "purge" => Op::Purge,
            "map_ram" => {
                let (addr, pages) = self.mapping("map_ram")?;
                Op::MapRam { addr, pages, own: self.maybe("own")?.unwrap_or(0) != 0 }
            }
            "unmap_ram" => {
                let (addr, pages) = self.mapping("unmap_ram")?;
                Op::UnmapRam { addr, pages }
            }
            "pcpu_alloc" => Op::PcpuAlloc(self.pcpu("pcpu_alloc")?),
            "pcpu_free" => Op::PcpuFree(self.pcpu("pcpu_free")?),
            "mark" => Op::Mark(self.need("mark", "text")?),
            "fail" => Op::Fail,
            _ => return Err(Reason::UnknownOp(shortened(word))),
        })
    }

    fn alloc(&self) -> Result<Alloc<'a>, Reason> {
        let (addr, size) = (self.number("alloc", "addr")?, self.size("alloc")?);
        let (align, within) = (self.align("alloc")?, self.within()?);
        let end = span(addr, size)?;
        if !addr.is_multiple_of(align) {
            return Err(Reason::Misaligned { addr, align });
        }
        if addr < within.start || end > within.end {
            return Err(Reason::OutsideRange { addr, end });
        }
        Ok(Alloc {
            addr,
            size,
            align,
            kind: kind(self.need("alloc", "kind")?)?,
            req: self.maybe("req")?,
            device: self.maybe("flags")?.unwrap_or(0) & VM_IOREMAP != 0,
            zeroed: self.maybe("gfp")?.unwrap_or(0) & GFP_ZERO != 0,
            within,
            caller: self.need("alloc", "caller")?,
        })
    }

    fn free(&self) -> Result<Op<'a>, Reason> {
        let (addr, size) = (self.number("free", "addr")?, self.size("free")?);
        Ok(Op::Free { addr, size, kind: kind(self.need("free", "kind")?)? })
    }

    fn mapping(&self, op: &'static str) -> Result<(u64, u64), Reason> {
        let (addr, pages) = (self.number(op, "addr")?, self.number(op, "count")?);
        let bytes = pages.checked_mul(PAGE).ok_or(Reason::Huge { what: "count", value: pages })?;
        sound("count", pages, bytes)?;
        span(addr, bytes)?;
        Ok((addr, pages))
    }

    fn pcpu(&self, op: &'static str) -> Result<Pcpu, Reason> {
        let chunk = Pcpu { size: self.size(op)?, parts: self.number(op, "nr")?, align: self.align(op)? };
        let bytes = chunk.size.saturating_mul(chunk.parts);
        sound("nr", chunk.parts, bytes)?;
        Ok(chunk)
    }

    fn size(&self, op: &'static str) -> Result<u64, Reason> {
        let size = self.number(op, "size")?;
        sound("size", size, size)?;
        if size.is_multiple_of(PAGE) { Ok(size) } else { Err(Reason::NotPages { what: "size", value: size }) }
    }

    fn align(&self, op: &'static str) -> Result<u64, Reason> {
        let align = self.number(op, "align")?;
        if align.is_power_of_two() { Ok(align) } else { Err(Reason::BadAlign(align)) }
    }

    /// `vstart..vend` in whole pages: some kernels give the last byte, some
    /// the byte after it.
    fn within(&self) -> Result<Range<u64>, Reason> {
        let (start, end) = (self.number("alloc", "vstart")?, self.number("alloc", "vend")?);
        if !start.is_multiple_of(PAGE) {
            return Err(Reason::NotPages { what: "vstart", value: start });
        }
        let whole = end.checked_next_multiple_of(PAGE).unwrap_or(!(PAGE - 1));
        if start < whole { Ok(start..whole) } else { Err(Reason::BadRange { start, end }) }
    }
}

/// Refuses a `value` that stands for no bytes, or for 2^63 and more.
fn sound(what: &'static str, value: u64, bytes: u64) -> Result<(), Reason> {
    match bytes {
        0 => Err(Reason::Zero(what)),
        1..0x8000_0000_0000_0000 => Ok(()),
        _ => Err(Reason::Huge { what, value }),
    }
}

/// The end of the area of `size` bytes at `addr`.
fn span(addr: u64, size: u64) -> Result<u64, Reason> {
    if !addr.is_multiple_of(PAGE) {
        return Err(Reason::NotPages { what: "addr", value: addr });
    }
    addr.checked_add(size).ok_or(Reason::OutsideRange { addr, end: addr.wrapping_add(size) })
}

fn kind(word: &str) -> Result<Kind, Reason> {
    Ok(match word {
        "vmalloc" => Kind::Vmalloc,
        "vmap" => Kind::Vmap,
        "vm_area" => Kind::VmArea,
        "vb" => Kind::Block,
        "?" => Kind::Unknown,
        _ => return Err(Reason::UnknownKind(shortened(word))),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "5 1 alloc addr=0x4000 size=8192 align=1 kind=vmalloc req=4096 flags=0x0 gfp=0xdc0 \
                        vstart=0x1000 vend=0xffff caller=f+0x1[m] task=a b:7";

    fn refused(text: &str) -> String {
        parse(text).unwrap_err().to_string()
    }

    #[test]
    fn an_allocation_is_read_whole() {
        let op = Op::Alloc(Alloc {
            addr: 0x4000,
            size: 8192,
            align: 1,
            kind: Kind::Vmalloc,
            req: Some(4096),
            device: false,
            zeroed: true,
            within: 0x1000..0x10000,
            caller: "f+0x1[m]",
        });
        assert_eq!(parse(GOOD), Ok(Event { time_ns: 5, cpu: 1, op }));
    }

    #[test]
    fn the_other_operations_are_read() {
        let op = |text: &'static str| parse(text).unwrap().op;
        assert_eq!(
            op("1 0 free addr=0x4000 size=4096 kind=? by=vfree_deferred task=x"),
            Op::Free { addr: 0x4000, size: 4096, kind: Kind::Unknown }
        );
        assert_eq!(op("1 0 defer addr=0x4000 caller=f"), Op::Defer { addr: 0x4000 });
        assert_eq!(op("1 0 purge areas=0 start=0xffffffffffffffff end=0x0"), Op::Purge);
        for (text, own) in [("", false), (" own=0", false), (" own=1", true)] {
            let line = format!("1 0 map_ram addr=0x4000 count=3{text}").leak();
            assert_eq!(op(line), Op::MapRam { addr: 0x4000, pages: 3, own });
        }
        assert_eq!(op("1 0 unmap_ram addr=0x4000 count=3"), Op::UnmapRam { addr: 0x4000, pages: 3 });
        let chunk = Pcpu { size: 8192, parts: 2, align: 4096 };
        assert_eq!(op("1 0 pcpu_alloc size=8192 nr=2 align=4096"), Op::PcpuAlloc(chunk));
        assert_eq!(op("1 0 pcpu_free size=8192 nr=2 align=4096"), Op::PcpuFree(chunk));
        assert_eq!(op("1 0 mark text=a phase = b"), Op::Mark("a phase = b"));
        assert_eq!(op("1 0 fail"), Op::Fail);
    }

    #[test]
    fn each_way_to_be_wrong_has_a_reason() {
        let with = |from: &str, to: &str| refused(&GOOD.replace(from, to));
        assert_eq!(refused("hello"), "an event needs a time, a CPU and an operation; this line is \"hello\"");
        assert_eq!(with("5 1 ", "x 1 "), "the time is not a number: \"x\"");
        assert_eq!(with("5 1 ", "5 -1 "), "the CPU is not a number: \"-1\"");
        assert_eq!(with("5 1 ", "5 4294967295 "), "the CPU is 4294967295: more than any machine can have");
        assert_eq!(with("alloc", "allocate"), "unknown operation \"allocate\"");
        assert_eq!(with("align=1", "align"), "not of the form key=value: \"align\"");
        assert_eq!(with("align=1", "size=1"), "the key \"size\" occurs twice");
        assert_eq!(with("align=1 ", ""), "the key \"align\" is missing from \"alloc\"");
        assert_eq!(with("kind=vmalloc", "kind=heap"), "unknown kind \"heap\" (known: vmalloc, vmap, vm_area, vb, ?)");
        assert_eq!(with("size=8192", "size=8k"), "the size is not a number: \"8k\"");
        assert_eq!(with("size=8192", "size=+8192"), "the size is not a number: \"+8192\"");
        assert_eq!(with("addr=0x4000", "addr=0xg"), "the addr is not a number: \"0xg\"");
        assert_eq!(
            with("size=8192", "size=18446744073709551616"),
            "the size is not a number: \"18446744073709551616\""
        );
        assert_eq!(with("size=8192", "size=0"), "size is 0");
        assert_eq!(
            with("size=8192", "size=0x8000000000000000"),
            "size is 9223372036854775808: more than any machine can have"
        );
        assert_eq!(with("size=8192", "size=8191"), "size is 8191: not a multiple of the page size, 4096");
        assert_eq!(with("0x4000", "0x4001"), "addr is 16385: not a multiple of the page size, 4096");
        assert_eq!(with("align=1", "align=3"), "align is 3: not a power of two");
        assert_eq!(with("align=1", "align=0"), "align is 0: not a power of two");
        assert_eq!(with("align=1", "align=32768"), "addr 0x4000 is not aligned to 32768");
        assert_eq!(with("vend=0xffff", "vend=0x1000"), "vstart 0x1000 is not below vend 0x1000");
        assert_eq!(with("vstart=0x1000", "vstart=0x1001"), "vstart is 4097: not a multiple of the page size, 4096");
        assert_eq!(with("vend=0xffff", "vend=0x5000"), "the area 0x4000-0x6000 is not inside vstart..vend");
        assert_eq!(refused("1 0 map_ram addr=0x1000 count=0"), "count is 0");
        assert_eq!(
            refused("1 0 map_ram addr=0x1000 count=0x10000000000000"),
            "count is 4503599627370496: more than any machine can have"
        );
        assert_eq!(refused("1 0 pcpu_alloc size=4096 nr=0 align=1"), "nr is 0");
    }
}
