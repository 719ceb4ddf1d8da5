//! The headers that cbindgen writes are what the sources say.

use cbindgen::{Builder, Config};
use std::path::Path;
use std::{env, fs};

/// With this variable set the files are written, and not compared.
const WRITE: &str = "WRITE_HEADERS";
const HERE: &str = env!("CARGO_MANIFEST_DIR");

/// The header that `config` makes of these files in `src`.
fn header(config: &str, files: &[&str]) -> String {
    let here = Path::new(HERE);
    let config = Config::from_file(here.join(config)).unwrap();
    let files = files.iter().map(|file| here.join(format!("src/{file}.rs")));
    let builder = files.fold(Builder::new().with_config(config), Builder::with_src);
    let mut text = Vec::new();
    builder.generate().unwrap().write(&mut text);
    String::from_utf8(text).unwrap()
}

#[track_caller]
fn committed(path: &str, text: &str) {
    let at = Path::new(HERE).join("include").join(path);
    if env::var_os(WRITE).is_some() {
        fs::write(&at, text).unwrap();
    }
    let differs = format!("{path} differs: {WRITE}=1 cargo test -p vmalloc-capi --test header writes it anew");
    assert!(fs::read_to_string(&at).is_ok_and(|committed| committed == text), "{differs}");
}

#[test]
fn vmalloc_h_is_what_the_sources_say() {
    committed("vmalloc.h", &header("cbindgen.toml", &["number", "instance", "area", "frames", "query", "kernel"]));
}

#[test]
fn what_kernel_h_calls_is_what_the_sources_say() {
    let files = ["area", "map", "slab", "page", "percpu", "host", "rcu"].map(|file| format!("kernel/{file}"));
    committed("vmalloc/abi.h", &header("cbindgen-abi.toml", &files.each_ref().map(String::as_str)));
}
