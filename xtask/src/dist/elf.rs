//! As much of the ELF format as tells a static program (elf(5)).

/// Program header type: path of the dynamic linker.
const PT_INTERP: u32 = 3;

/// Whether a program runs without a dynamic linker: it names none.
pub(super) fn is_static(file: &[u8]) -> Result<bool, String> {
    let broken = || "not a 64-bit little-endian ELF program".to_owned();
    if file.get(..6) != Some(b"\x7fELF\x02\x01") {
        return Err(broken());
    }
    let number = |at: usize, length: usize| {
        let bytes = file.get(at..at.checked_add(length)?)?;
        let value = bytes.iter().rev().fold(0u64, |value, byte| value << 8 | u64::from(*byte));
        usize::try_from(value).ok()
    };
    let table = number(32, 8).ok_or_else(broken)?;
    let (entry, count) = (number(54, 2).ok_or_else(broken)?, number(56, 2).ok_or_else(broken)?);
    for index in 0..count {
        let kind = number(table.saturating_add(index * entry), 4).ok_or_else(broken)?;
        if kind == PT_INTERP as usize {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::is_static;

    #[test]
    fn this_test_is_a_dynamic_program() {
        let own = std::fs::read("/proc/self/exe").unwrap();
        assert_eq!(is_static(&own), Ok(false));
        assert!(is_static(&own[..70]).is_err());
        assert!(is_static(b"#!/bin/sh\n").is_err());
    }
}
