"""Many runs side by side: what varies, Start, Cancel, and what all of them cost."""
