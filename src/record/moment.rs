//! Times in records.

use std::time::Duration;

use crate::base::time::Time;
use crate::record::fault::RecordFault;
use crate::record::field::{Field, FieldWriter, Reader};

/// Nanoseconds after the moment at which the record was written, or before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(pub i64);

impl Moment {
    /// Of what never comes.
    pub const NEVER: Moment = Moment(i64::MAX);

    /// `time` as it is written at `now`.
    pub fn of(time: Time, now: Time) -> Moment {
        if time == Time::NEVER {
            return Moment::NEVER;
        }
        // Less than NEVER, whatever the clocks say.
        let ahead = i128::from(time.0) - i128::from(now.0);
        Moment(ahead.clamp(i64::MIN.into(), (i64::MAX - 1).into()) as i64)
    }

    /// The time that is meant, on a clock that showed `written` when the record was written.
    pub fn at(self, written: Time) -> Time {
        match u64::try_from(self.0) {
            Ok(_) if self == Moment::NEVER => Time::NEVER,
            Ok(ahead) => written + Duration::from_nanos(ahead),
            Err(_) => written - Duration::from_nanos(self.0.unsigned_abs()),
        }
    }
}

impl Field for Moment {
    fn write(&self, out: &mut FieldWriter) {
        self.0.write(out);
    }

    fn read(from: &mut Reader<'_>) -> Result<Moment, RecordFault> {
        Ok(Moment(i64::read(from)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_means_the_same_on_another_clock() {
        let (old, new) = (Time(5_000), Time(70));
        for (time, expected) in
            [(Time(5_000), Time(70)), (Time(5_001), Time(71)), (Time(4_990), Time(60)), (Time(0), Time(0))]
        {
            assert_eq!(Moment::of(time, old).at(new), expected);
            assert_eq!(Moment::of(time, old).at(old), time);
        }
        assert_eq!(Moment::of(Time::NEVER, old).at(new), Time::NEVER);
        assert_eq!(Moment(i64::MIN).at(Time(1)), Time(0));
        assert_ne!(Moment::of(Time(u64::MAX - 1), Time(0)), Moment::NEVER);
    }
}
