//! Sizes as people write them.

use vmalloc::units::PAGE_SIZE;

/// Bytes: a number, perhaps with a fraction, and a unit or none. As GNU's tools have it, K and KiB are 1,024,
/// and KB is 1,000. What is no whole number of bytes is rounded down.
pub fn size(text: &str) -> Result<u64, String> {
    const WANTED: &str = "a number and a unit, such as 512M, 1.5G, 64MiB or 64MB";
    let unit = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(unit);
    let scale = match unit.to_ascii_uppercase().as_str() {
        "" | "B" => 1,
        "K" | "KIB" => 1 << 10,
        "M" | "MIB" => 1 << 20,
        "G" | "GIB" => 1 << 30,
        "T" | "TIB" => 1 << 40,
        "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        _ => return Err(WANTED.to_owned()),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let digits =
        |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse::<u128>().ok()).flatten();
    let places = fraction.len() as u32;
    let parsed = digits(whole).zip(digits(fraction).filter(|_| places <= 9));
    let (whole, fraction) = parsed.ok_or_else(|| WANTED.to_owned())?;
    let whole = whole.checked_mul(scale).ok_or("too large")?;
    let bytes = whole.checked_add(fraction * scale / 10u128.pow(places)).ok_or("too large")?;
    let bytes = u64::try_from(bytes).ok().filter(|&bytes| bytes < 1 << 63).ok_or("too large")?;
    if bytes < PAGE_SIZE as u64 { Err("less than a page".to_owned()) } else { Ok(bytes) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_units_and_fractions() {
        assert_eq!([size("4096"), size("8192B")], [Ok(4096), Ok(8192)]);
        assert_eq!(
            [size("64k"), size("2M"), size("1G"), size("1T")],
            [Ok(64 << 10), Ok(2 << 20), Ok(1 << 30), Ok(1 << 40)]
        );
        assert_eq!([size("64MiB"), size("64MB"), size("1.5G")], [Ok(64 << 20), Ok(64_000_000), Ok(3 << 29)]);
        assert_eq!([size("0.25GiB"), size("1.0625m")], [Ok(1 << 28), Ok(17 << 16)]);
        for wrong in [
            "",
            "M",
            "1.5.G",
            ".",
            "1.2x",
            "-1M",
            "1 M",
            "1E",
            "100",
            "9999999999G",
            "18446744073709551616",
            // 2^88 T are 2^128 bytes.
            "309485009821345068724781057T",
            "+4K",
            "1e9",
        ] {
            assert!(size(wrong).is_err(), "{wrong:?}");
        }
    }
}
