//! What cannot be used ends with exit code 2 and one line that names file,
//! line and reason, and nothing is half-printed.

use crate::common::{replay, scratch, trace};

/// Runs a replay of `bytes`, which must be refused, and returns the message
/// from the line number on.
fn refused(name: &str, bytes: &[u8]) -> String {
    let path = scratch(name);
    std::fs::write(&path, bytes).unwrap();
    let run = replay(&[path.to_str().unwrap()]);
    assert_eq!((run.code, run.out.as_str()), (2, ""), "{}", run.err);
    let prefix = format!("vmalloc: {}:", path.display());
    let message = run.err.strip_prefix(&prefix).unwrap_or_else(|| panic!("names no file: {}", run.err));
    assert_eq!(message.lines().count(), 1, "one line: {message}");
    message.trim_end().to_owned()
}

const RANGE: &str = "vstart=0xffffc90000000000 vend=0xffffe8ffffffffff";

fn alloc(time: u32, addr: &str, size: &str) -> String {
    format!("{time} 0 alloc addr={addr} size={size} align=1 kind=? {RANGE} caller=? task=a:1\n")
}

fn free(time: u32, addr: &str, size: &str) -> String {
    format!("{time} 0 free addr={addr} size={size} kind=? by=vfree caller=f task=a:1\n")
}

const EXPECTED: &str = "expected 0x<start>-0x<end> and a size in bytes";
const HERE: &str = "0xffffc90000004000";

#[test]
fn a_missing_file() {
    let run = replay(&["no/such/trace.gz"]);
    assert_eq!((run.code, run.out.as_str()), (2, ""));
    assert_eq!(run.err, "vmalloc: no/such/trace.gz: cannot be opened: No such file or directory (os error 2)\n");
}

#[test]
fn a_folder() {
    let run = replay(&["."]);
    assert_eq!((run.code, run.out.as_str()), (2, ""));
    assert_eq!(run.err, "vmalloc: .:1: cannot be read on: Is a directory (os error 21)\n");
}

#[test]
fn an_empty_file() {
    assert_eq!(refused("empty", b""), "1: the file has no events");
}

#[test]
fn a_truncated_gzip_file() {
    let whole = std::fs::read(trace("boot.txt.gz")).unwrap();
    let message = refused("truncated.gz", &whole[..whole.len() / 2]);
    let (line, reason) = message.split_once(": ").unwrap();
    assert!(line.parse::<usize>().unwrap() > 100, "it was read as far as it goes: {message}");
    assert!(reason.starts_with("the gzip data is damaged or cut short here: "), "{message}");
}

#[test]
fn a_damaged_gzip_file() {
    let mut bytes = std::fs::read(trace("boot.txt.gz")).unwrap();
    let last = bytes.len() - 6;
    bytes[last] ^= 0xff;
    assert!(refused("damaged.gz", &bytes).contains("the gzip data is damaged or cut short here"), "its checksum");
}

#[test]
fn binary_garbage() {
    let garbage: Vec<u8> = (0..5000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    assert_eq!(refused("garbage", &garbage), "1: no text: it has bytes that are not UTF-8");
    let message = refused("zeros", &[0; 100_000]);
    assert_eq!(message, "1: no text: a line of more than 65536 bytes");
}

#[test]
fn a_bad_line_in_a_good_trace() {
    let good = alloc(1, HERE, "8192");
    assert_eq!(refused("operation", format!("{good}2 0 allot x=1\n").as_bytes()), "2: unknown operation \"allot\"");
    let words = "2: an event needs a time, a CPU and an operation; this line is \"hello\"";
    assert_eq!(refused("words", format!("{good}hello\n").as_bytes()), words);
    let key = good.replace(" align=1", "");
    assert_eq!(refused("key", key.as_bytes()), "1: the key \"align\" is missing from \"alloc\"");
    let number = alloc(1, HERE, "many");
    assert_eq!(refused("number", number.as_bytes()), "1: the size is not a number: \"many\"");
}

#[test]
fn sizes_that_no_area_has() {
    assert_eq!(refused("nothing", alloc(1, HERE, "0").as_bytes()), "1: size is 0");
    let huge = |size: u64| format!("1: size is {size}: more than any machine can have");
    assert_eq!(refused("half", alloc(1, HERE, "9223372036854775808").as_bytes()), huge(1 << 63));
    assert_eq!(refused("all", alloc(1, HERE, "0xfffffffffffff000").as_bytes()), huge(!0xfff));
    let odd = "1: size is 5000: not a multiple of the page size, 4096";
    assert_eq!(refused("odd", alloc(1, HERE, "5000").as_bytes()), odd);
}

#[test]
fn frees_of_what_was_never_made() {
    let never = format!(
        "1: {HERE} is freed, but no area was ever there; `vmalloc convert` leaves out what a trace frees of before its begin"
    );
    assert_eq!(refused("never", free(1, HERE, "8192").as_bytes()), never);
    let twice = [alloc(1, HERE, "8192"), free(2, HERE, "8192"), free(3, HERE, "8192")].concat();
    assert_eq!(refused("twice", twice.as_bytes()), format!("3: {HERE} is freed, but line 2 has freed it already"));
}

#[test]
fn overlapping_areas() {
    let both = alloc(1, HERE, "8192") + &alloc(2, "0xffffc90000005000", "8192");
    let message = "2: the area 0xffffc90000005000-0xffffc90000007000 overlaps \
                   0xffffc90000004000-0xffffc90000006000, which is live since line 1";
    assert_eq!(refused("overlap", both.as_bytes()), message);
}

#[test]
fn a_listing_that_is_none() {
    let path = scratch("no-listing");
    std::fs::write(&path, "0x1000-0x2000 4096 f+0x1/0x2 vmalloc\nhello\n").unwrap();
    let run = replay(&[&trace("boot.txt.gz"), "--expect", path.to_str().unwrap()]);
    assert_eq!((run.code, run.out.as_str()), (2, ""));
    let message =
        format!("vmalloc: {}:2: not a line of a vmallocinfo listing: \"hello\"; {EXPECTED}\n", path.display());
    assert_eq!(run.err, message);
}

#[test]
fn options_that_make_no_sense() {
    for args in
        [&["--cpus", "0"][..], &["--memory", "lots"], &["--machine", "vax"], &["--loops", "0"], &["--strict-expect"]]
    {
        let run = replay(args);
        assert_eq!((run.code, run.out.as_str()), (2, ""), "{args:?}");
        assert!(run.err.contains(args[0]), "{args:?}: {}", run.err);
    }
}

#[test]
fn a_file_that_cannot_be_written_is_told_before_anything_is_done() {
    let trace = trace("boot.txt.gz");
    for option in ["--json", "--svg", "--snapshot", "--trace-out"] {
        let started = std::time::Instant::now();
        let run = replay(&[&trace, "--loops", "100000", option, "no/such/folder/file"]);
        let why = "vmalloc: no/such/folder/file: cannot be written: No such file or directory (os error 2)\n";
        assert_eq!((run.code, run.out.as_str(), run.err.as_str()), (2, "", why), "{option}");
        assert!(started.elapsed().as_secs() < 60, "{option}: it took as long as the replay");
    }
}
