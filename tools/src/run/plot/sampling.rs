//! Fewer points for the same picture.

/// A point: x, y.
pub(crate) type Point = (f64, f64);

/// Splits points, in ascending order of x, where a coordinate is not finite, and keeps of every bucket of `width` in x the
/// first, the lowest, the highest and the last: what a line through all of them would cover, a line through these covers.
pub(crate) fn min_max(points: &[Point], width: f64) -> Vec<Vec<Point>> {
    let finite = |point: &Point| point.0.is_finite() && point.1.is_finite();
    let segments = points.split(|point| !finite(point)).filter(|segment| !segment.is_empty());
    segments.map(|segment| min_max_of_segment(segment, width)).collect()
}

fn min_max_of_segment(points: &[Point], width: f64) -> Vec<Point> {
    let bucket = |point: &Point| (point.0 / width).floor();
    let mut kept = Vec::new();
    for bucket in points.chunk_by(|a, b| bucket(a) == bucket(b)) {
        let by_y = |a: &usize, b: &usize| bucket[*a].1.total_cmp(&bucket[*b].1);
        let lowest = (0..bucket.len()).min_by(by_y).unwrap_or(0);
        let highest = (0..bucket.len()).max_by(by_y).unwrap_or(0);
        let mut indices = [0, lowest.min(highest), lowest.max(highest), bucket.len() - 1].to_vec();
        indices.dedup();
        kept.extend(indices.into_iter().map(|index| bucket[index]));
    }
    kept
}

/// The exponential moving average over about `span` points, without a bias to the first one. What is not finite is passed
/// over.
pub(crate) fn smooth(points: &[Point], span: usize) -> Vec<Point> {
    let keep = 1.0 - 2.0 / (span.max(1) as f64 + 1.0);
    let (mut sum, mut weight) = (0.0, 0.0);
    let finite = points.iter().filter(|point| point.1.is_finite());
    finite
        .map(|&(x, y)| {
            sum = keep * sum + y;
            weight = keep * weight + 1.0;
            (x, sum / weight)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn gaps_stay_gaps() {
        let points = [(1.0, 1.0), (2.0, f64::NAN), (3.0, 2.0), (4.0, 3.0), (5.0, f64::INFINITY)];
        assert_eq!(min_max(&points, 0.5), [vec![(1.0, 1.0)], vec![(3.0, 2.0), (4.0, 3.0)]]);
        assert_eq!(min_max(&[], 1.0), Vec::<Vec<Point>>::new());
    }

    #[test]
    fn a_constant_stays_as_it_is_and_noise_is_halved() {
        let constant: Vec<Point> = (0..100).map(|x| (f64::from(x), 5.0)).collect();
        assert!(smooth(&constant, 20).iter().all(|point| (point.1 - 5.0).abs() < 1e-12));
        assert_eq!(smooth(&[(0.0, 1.0), (1.0, f64::NAN), (2.0, 3.0)], 1), [(0.0, 1.0), (2.0, 3.0)]);
        let noise: Vec<Point> = (0..1000).map(|x| (f64::from(x), f64::from(x % 2))).collect();
        assert!(smooth(&noise, 100).iter().skip(200).all(|point| (point.1 - 0.5).abs() < 0.02));
    }

    proptest! {
        #[test]
        fn extremes_and_ends_are_kept(
            ys in prop::collection::vec(-1e6f64..1e6, 1..500),
            width in 0.5f64..100.0,
        ) {
            let points: Vec<Point> = ys.iter().enumerate().map(|(x, &y)| (x as f64, y)).collect();
            let [kept] = &min_max(&points, width)[..] else { panic!("one segment") };
            let lowest = |points: &[Point]| points.iter().map(|point| point.1).fold(f64::INFINITY, f64::min);
            let highest = |points: &[Point]| points.iter().map(|point| point.1).fold(f64::NEG_INFINITY, f64::max);
            prop_assert_eq!(lowest(kept), lowest(&points));
            prop_assert_eq!(highest(kept), highest(&points));
            prop_assert_eq!((kept[0], kept.last()), (points[0], points.last()));
            prop_assert!(kept.windows(2).all(|pair| pair[0].0 <= pair[1].0), "in order");
            prop_assert!(kept.iter().all(|point| points.contains(point)), "nothing is made up");
            let buckets = (points.len() as f64 / width).ceil() as usize + 1;
            prop_assert!(kept.len() <= 4 * buckets, "{} of {} in {buckets}", kept.len(), points.len());
        }
    }
}
