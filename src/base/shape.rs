//! In which shape publications are written for a subscriber, beside the encoding of their frames.

/// What a subscriber gets of a publication.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Shape {
    /// All of it.
    #[default]
    Whole = 0,
    /// What changes in the one before, to those that had that: a delta of Fossil.
    Delta = 1,
}

impl Shape {
    /// Bits of [`Shape::number`].
    pub const BITS: u32 = 1;

    /// As clients ask for it. An unknown name is not refused: the answer says that publications come whole.
    pub fn named(name: &str) -> Shape {
        match name {
            "fossil" => Shape::Delta,
            _ => Shape::Whole,
        }
    }

    /// What is written depends on what the subscriber had before.
    pub fn is_chained(self) -> bool {
        self == Shape::Delta
    }

    /// In classes, flags and records. Numbers are never given twice.
    pub fn number(self) -> u8 {
        self as u8
    }

    /// Of the lowest [`Shape::BITS`].
    pub fn of_number(number: u8) -> Shape {
        match number & 1 {
            1 => Shape::Delta,
            _ => Shape::Whole,
        }
    }
}

/// The shapes that subscribers of a channel may ask for, beside all of a publication.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shapes {
    pub delta: bool,
}

impl Shapes {
    /// The option that allows a shape which is chained, if one does.
    pub fn chained(self) -> Option<&'static str> {
        self.delta.then_some("allow_delta")
    }

    /// What a subscriber gets that asks for the shape.
    pub fn grant(self, asked: Shape) -> Shape {
        match asked {
            Shape::Delta if self.delta => asked,
            _ => Shape::Whole,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shape_is_found_by_its_number_and_its_name() {
        for shape in [Shape::Whole, Shape::Delta] {
            assert_eq!(Shape::of_number(shape.number()), shape);
            assert!(shape.number() < 1 << Shape::BITS);
        }
        assert_eq!(
            [Shape::named("fossil"), Shape::named(""), Shape::named("bsdiff")],
            [Shape::Delta, Shape::Whole, Shape::Whole]
        );
        assert!(Shape::Delta.is_chained() && !Shape::Whole.is_chained());
    }

    #[test]
    fn what_a_channel_does_not_allow_is_whole() {
        for delta in [false, true] {
            let shapes = Shapes { delta };
            assert_eq!(shapes.grant(Shape::Delta) == Shape::Delta, delta);
            assert_eq!(shapes.grant(Shape::Whole), Shape::Whole);
        }
    }
}
