//! Bits of the packet mark that carry decisions from chain to chain.

/// The bits in use, taken from the lowest of the mask (Calico's layout: accept, pass).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Marks {
    /// Policy accepts the packet in this direction.
    pub accept: u32,
    /// The tier has passed the packet on.
    pub pass: u32,
}

/// A mask without room for the bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("packet mark mask {0:#x} has fewer than 2 bits; give Margay at least two bits nobody else uses")]
pub struct MaskTooSmall(pub u32);

impl Marks {
    /// Hands out bits of a mask.
    ///
    /// # Errors
    /// The mask has fewer than two bits.
    pub const fn from_mask(mask: u32) -> Result<Self, MaskTooSmall> {
        if mask.count_ones() < 2 {
            return Err(MaskTooSmall(mask));
        }
        let accept = 1 << mask.trailing_zeros();
        let pass = 1 << (mask & !accept).trailing_zeros();
        Ok(Self { accept, pass })
    }

    /// Both bits: decided, one way or the other.
    pub const fn decided(self) -> u32 {
        self.accept | self.pass
    }
}

impl Default for Marks {
    fn default() -> Self {
        Self { accept: 0x1_0000, pass: 0x2_0000 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_come_from_the_lowest_of_the_mask() {
        assert_eq!(Marks::from_mask(crate::model::WriterSettings::default().mark_mask), Ok(Marks::default()));
        assert_eq!(Marks::from_mask(0x0000_0a00), Ok(Marks { accept: 0x200, pass: 0x800 }));
        assert_eq!(Marks::from_mask(0x10), Err(MaskTooSmall(0x10)));
    }
}
