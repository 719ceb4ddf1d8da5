//! `include/vmalloc.h` is what cbindgen makes of the sources.

use std::path::Path;
use std::{env, fs};

/// With this variable set the file is written, and not compared.
const WRITE: &str = "WRITE_HEADER";

#[test]
fn the_header_is_what_the_sources_say() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let config = cbindgen::Config::from_file(here.join("cbindgen.toml")).unwrap();
    let mut text = Vec::new();
    cbindgen::Builder::new().with_crate(here).with_config(config).generate().unwrap().write(&mut text);
    let (text, at) = (String::from_utf8(text).unwrap(), here.join("include/vmalloc.h"));
    if env::var_os(WRITE).is_some() {
        fs::write(&at, &text).unwrap();
    }
    let differs = format!("{WRITE}=1 cargo test -p vmalloc-capi --test header writes it anew");
    assert!(fs::read_to_string(&at).is_ok_and(|committed| committed == text), "{differs}");
}
