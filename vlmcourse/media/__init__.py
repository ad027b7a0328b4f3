"""Files to arrays: video, sound, subtitles, and every system's rule for choosing frames."""
