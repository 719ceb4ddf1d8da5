//! What is shown of listings, from outside.

use crate::common::{command, scratch, trace};
use serde_json::Value;
use std::io::Write;
use std::process::{Command, Stdio};

const CAS: &str = "\
0xffffae2a4fe90000-0xffffae2a4ff9a000 1089536 cache_start+0x1b0/0x7a0 [cas] pages=265 vmalloc N0=265
0xffffae2a50b02000-0xffffae2a50c28000 1204224 ram_init+0x2d/0x70 [cas] pages=293 vmalloc N0=293
0xffffae2a50e58000-0xffffae2a52313000 21737472 ram_init+0x2d/0x70 [cas] pages=5306 vmalloc vpages N0=5306
0xffffae2a56311000-0xffffae2a564cc000 1814528 ram_init+0x2d/0x70 [cas] pages=442 vmalloc N0=442
0xffffae2a62000000-0xffffae2a62008000   32768 unpurged vm_area
";

/// A file of its own with `text`.
fn listing(name: &str, text: &str) -> String {
    let path = scratch(name);
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

/// The words of the first line of `out` that has all of `parts`.
fn line<'o>(out: &'o str, parts: &[&str]) -> &'o str {
    let found = out.lines().find(|line| parts.iter().all(|part| line.contains(part)));
    found.unwrap_or_else(|| panic!("no line with {parts:?} in\n{out}"))
}

fn json(args: &[&str]) -> Value {
    let run = command(&[&["show", "--json"], args].concat());
    assert_eq!((run.code, run.err.as_str()), (0, ""));
    serde_json::from_str(&run.out).expect("JSON")
}

#[test]
fn a_listing_is_summed_by_what_people_ask_for() {
    let run = command(&["show", &listing("cas", CAS)]);
    assert_eq!((run.code, run.err.as_str()), (0, ""));
    line(&run.out, &["addresses, with guards", " 4 ", "25,845,760"]);
    line(&run.out, &["addresses, without guards", " 4 ", "25,829,376"]);
    line(&run.out, &["memory, 6,306 pages", "25,829,376", "24.6 MiB"]);
    line(&run.out, &["freed, wait for a flush", " 1 ", "32,768"]);
    line(&run.out, &["ram_init [cas]", " 3 ", "24,756,224", "95.8%", "6,041", "23.6 MiB"]);
    line(&run.out, &["cas ", " 4 ", "25,845,760", "100.0%"]);
    line(&run.out, &["vmalloc vpages", " 1 ", "21,737,472"]);
    line(&run.out, &["N0", " 4 ", "6,306"]);
    line(&run.out, &["up to 2 MiB", " 3 "]);
    line(&run.out, &["0xffffae2a50e58000", "ram_init+0x2d [cas]", "21,737,472"]);
    line(&run.out, &["0xffffae2a564cc000", "0xffffae2a62000000", "196,296,704"]);
    line(&run.out, &["up to 256 MiB", " 1 ", "196,296,704", "70.7%"]);
    line(&run.out, &["Between the areas: 4 holes"]);
}

#[test]
fn one_table_is_shown_when_asked_and_as_many_rows() {
    let run = command(&["show", &trace("boot.vmallocinfo.gz"), "--by", "caller", "--top", "2"]);
    assert_eq!(run.code, 0, "{}", run.err);
    assert_eq!(run.out.matches('╞').count(), 2, "totals and callers:\n{}", run.out);
    line(&run.out, &["load_module", "111", "3,784,704"]);
    line(&run.out, &["15 more"]);
    let all = command(&["show", &trace("boot.vmallocinfo.gz"), "--top", "1", "--by", "size"]);
    assert!(all.out.contains("up to 4 MiB") && !all.out.contains("more"), "sizes are few: {}", all.out);
}

#[test]
fn without_a_file_this_machines_listing_is_shown_if_it_may_be_read() {
    const OWN: &str = "/proc/vmallocinfo";
    let run = command(&["show", "--by", "kind"]);
    if std::fs::read_to_string(OWN).is_ok_and(|text| !text.is_empty()) {
        assert_eq!((run.code, run.err.as_str()), (0, ""));
        assert!(run.out.starts_with(OWN) && run.out.contains("vmalloc"), "{}", run.out);
    } else {
        assert_eq!((run.code, run.out.as_str()), (2, ""));
        assert!(run.err.starts_with(&format!("vmalloc: {OWN}: ")), "{}", run.err);
    }
}

#[test]
fn stdin_is_a_listing_as_pasted() {
    let quoted: String = CAS.lines().map(|line| format!("> {}\r\n", line.replace(" pages", "\r\n> pages"))).collect();
    let (code, out) = piped(&["show", "-", "--json"], |to| to.write_all(quoted.as_bytes()));
    let report: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!((code, &report["listing"], &report["areas"]), (0, &Value::from("stdin"), &Value::from(4)));
    assert_eq!(report["bytes"], 25_845_760);
}

/// Runs the command with `args`, and what `write` writes as its stdin.
fn piped(args: &[&str], write: impl FnOnce(&mut dyn Write) -> std::io::Result<()>) -> (i32, String) {
    let mut command = Command::new("sh");
    // 160 MiB of addresses: less than twice what the longest listing here has.
    command.args(["-c", "ulimit -v 163840; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_vmalloc")]);
    let mut child = command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    write(&mut child.stdin.take().unwrap()).unwrap();
    let output = child.wait_with_output().unwrap();
    (output.status.code().expect("no signal"), String::from_utf8(output.stdout).unwrap())
}

#[test]
fn a_listing_of_100_mib_takes_time_and_memory_of_an_order() {
    let began = std::time::Instant::now();
    let mut areas = 0u64;
    let (code, out) = piped(&["show", "-", "--json", "--svg", "/dev/null"], |to| {
        let mut to = std::io::BufWriter::with_capacity(1 << 16, to);
        let mut bytes = 0;
        while bytes < 100 << 20 {
            let start = 0xffff_c900_0000_0000u64 + areas * 0x6000;
            let end = start + 0x5000;
            let text = format!("{start:#x}-{end:#x}   20480 clone{}+0xc2/0x430 pages=4 vmalloc N0=4\n", areas % 1000);
            bytes += text.len();
            to.write_all(text.as_bytes())?;
            areas += 1;
        }
        to.flush()
    });
    assert_eq!(code, 0);
    let report: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!((&report["areas"], &report["bytes"]), (&Value::from(areas), &Value::from(areas * 20480)));
    assert_eq!(
        (&report["holes"]["count"], report["by_caller"].as_array().unwrap().len()),
        (&Value::from(areas - 1), 1000)
    );
    assert!(began.elapsed().as_secs() < 60, "{:?}", began.elapsed());
}

#[test]
fn the_sums_are_written_as_json() {
    let report = json(&[&listing("cas-json", CAS), "--top", "1"]);
    let ram = &report["by_caller"][0];
    assert_eq!((&ram["name"], &ram["areas"], &ram["bytes"]), (&"ram_init [cas]".into(), &3.into(), &24_756_224.into()));
    assert_eq!(report["largest"].as_array().unwrap().len(), 1);
    assert_eq!(report["largest"][0]["start"], "0xffffae2a50e58000");
    assert_eq!(report["holes"]["largest"][0]["bytes"], 196_296_704);
    let hidden = json(&[&listing("hidden", "0x(ptrval)-0x(ptrval) 8192 f+0x1/0x2 vmap\n")]);
    assert_eq!(
        (&hidden["hidden"], &hidden["holes"], &hidden["largest"][0]["start"]),
        (&true.into(), &Value::Null, &Value::Null)
    );
    let nodes = json(&[&trace("boot.vmallocinfo.gz"), "--by", "node"]);
    assert!(nodes.get("by_node").is_some() && nodes.get("by_caller").is_none() && nodes.get("largest").is_none());
}

#[test]
fn what_grew_between_two_listings_is_shown() {
    let leak = "0xffffae2a70000000-0xffffae2a70003000 12288 drip+0x1/0x2 pages=2 vmalloc N0=2\n";
    let (before, after) = (
        listing("before", CAS),
        listing("after", &format!("{leak}{}", CAS.replace("1814528 ram_init", "1814528 rom_init"))),
    );
    let run = command(&["show", &before, &after]);
    assert_eq!((run.code, run.err.as_str()), (0, ""));
    line(&run.out, &["drip", "new", "+1", "+12,288", "+2"]);
    line(&run.out, &["rom_init [cas]", "new", "+1,814,528", "+442"]);
    line(&run.out, &["ram_init [cas]", " 3 ", " 2 ", "-1", "-1,814,528", "-442"]);
    line(&run.out, &["all", " 4 ", " 5 ", "+12,288"]);
    line(&run.out, &["As they were: 1."]);
    let report = json(&[&before, &after, "--by", "module"]);
    assert_eq!((&report["grown"][0]["name"], &report["grown"][0]["new"]), (&"(kernel)".into(), &true.into()));
    assert_eq!(
        (&report["by"], &report["same"], &report["shrunk"]),
        (&"module".into(), &1.into(), &Value::Array(vec![]))
    );
    let gone = json(&[&after, &before]);
    assert_eq!((&gone["shrunk"][0]["name"], &gone["shrunk"][0]["gone"]), (&"rom_init [cas]".into(), &true.into()));
}

#[test]
fn the_address_space_is_drawn_alike_each_time() {
    let pictures = ["one.svg", "two.svg"].map(|name| {
        let path = scratch(name);
        let run = command(&["show", &trace("boot.vmallocinfo.gz"), "--svg", path.to_str().unwrap()]);
        assert_eq!(run.code, 0, "{}", run.err);
        std::fs::read_to_string(path).unwrap()
    });
    assert_eq!(pictures[0], pictures[1]);
    for part in ["<svg xmlns=", "vmalloc: 352, 12.2 MiB", "ioremap: 15, ", "32.00 TiB without areas", "</svg>"] {
        assert!(pictures[0].contains(part), "{part}");
    }
}

#[test]
fn what_cannot_be_shown_is_exit_code_2_with_line_and_reason() {
    let bad = listing("bad", &format!("{CAS}0x1000-0x2000 8k\n"));
    let none = listing("none", "\n");
    for (args, message) in [
        (&[bad.as_str()][..], format!("{bad}:6: after an area's range its size is expected, in bytes, not \"8k\"")),
        (
            &[&none],
            format!("{none}: the listing has no areas: lines that begin with 0x<start>-0x<end> and a size in bytes"),
        ),
        (&["no/such"], "no/such: cannot be opened: No such file or directory (os error 2)".to_owned()),
        (
            &[&trace("boot.vmallocinfo.gz"), "no/such"],
            "no/such: cannot be opened: No such file or directory (os error 2)".to_owned(),
        ),
        (&["-", "-"], "stdin is one listing, not two".to_owned()),
    ] {
        let run = command(&[&["show"], args].concat());
        assert_eq!((run.code, run.out.as_str(), run.err), (2, "", format!("vmalloc: {message}\n")), "{args:?}");
    }
    for odd in [&["a", "b", "c"][..], &["a", "--by", "colour"], &["a", "--top", "0"], &["a", "b", "--svg", "c"]] {
        let run = command(&[&["show"], odd].concat());
        assert_eq!((run.code, run.out.as_str()), (2, ""), "{odd:?}: {}", run.err);
    }
    let run = command(&["show", &trace("boot.vmallocinfo.gz"), "--svg", "/no/such/folder/a.svg"]);
    assert_eq!((run.code, run.out.as_str()), (2, ""));
    assert!(run.err.starts_with("vmalloc: /no/such/folder/a.svg: cannot be written"), "{}", run.err);
}

#[test]
fn what_a_replay_lists_is_shown_with_the_same_totals() {
    let replayed = command(&["replay", &trace("boot.txt.gz"), "--machine", "sim", "--info", "--quiet"]);
    assert_eq!(replayed.code, 0, "{}", replayed.err);
    let [here, there] = [listing("replayed", &replayed.out), trace("boot.vmallocinfo.gz")].map(|path| json(&[&path]));
    // What is mapped there, and filled here, has pages of its own here.
    for field in ["areas", "bytes", "bytes_without_guards"] {
        assert_eq!(here[field], there[field], "{field}");
    }
}

#[test]
fn a_replay_draws_its_end_and_writes_it_as_json() {
    let [svg, snapshot, list] =
        ["end.svg", "end.json", "end.txt"].map(|name| scratch(name).to_str().unwrap().to_owned());
    let run = command(&[
        "replay",
        &trace("boot.txt.gz"),
        "--machine",
        "sim",
        "--info",
        "-q",
        "--svg",
        &svg,
        "--snapshot",
        &snapshot,
    ]);
    assert_eq!((run.code, run.err.as_str()), (0, ""));
    let picture = std::fs::read_to_string(svg).unwrap();
    assert!(picture.contains("boot.txt.gz, at the end of its replay on sim: 371 areas, 12.4 MiB"), "{picture}");
    std::fs::write(&list, &run.out).unwrap();
    let (shown, snapshot) = (json(&[&list]), std::fs::read_to_string(snapshot).unwrap());
    let snapshot: Value = serde_json::from_str(&snapshot).unwrap();
    for (name, value) in shown.as_object().unwrap().iter().filter(|(name, _)| *name != "listing") {
        assert_eq!(&snapshot[name], value, "{name}");
    }
    let all = snapshot["list"].as_array().unwrap();
    assert_eq!(all.len(), run.out.lines().count());
    let live = all.iter().filter(|area| area["freed"] == false);
    assert_eq!(live.map(|area| area["bytes"].as_u64().unwrap()).sum::<u64>(), 12_980_224);
    let stack = all.iter().find(|area| area["caller"] == "kernel_clone+0xc2").unwrap();
    assert_eq!((&stack["bytes"], &stack["pages"], &stack["nodes"]["N0"]), (&20480.into(), &4.into(), &4.into()));
    assert!(run.out.starts_with(&format!("{}-", all[0]["start"].as_str().unwrap())), "{}", all[0]);
}

#[test]
fn every_name_of_the_shown_is_explained() {
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    let (boot, mix) = (trace("boot.vmallocinfo.gz"), trace("mix.vmallocinfo.gz"));
    let (one, two) = (json(&[&boot]), json(&[&boot, &mix]));
    let inner = [&one["by_caller"][0], &one["largest"][0], &one["holes"], &two["grown"][0]];
    for name in [&one, &two].into_iter().chain(inner).flat_map(|object| object.as_object().unwrap().keys()) {
        assert!(readme.contains(&format!("`{name}`")), "{name}");
    }
}
