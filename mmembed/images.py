"""From bytes, a path, a data URI, a PIL image or an array to 8-bit RGB, safely; and what to do with a bad one.

What `load_image` does with each kind of image (the tests hold the same table with numbers):

| found                            | becomes                                                                           |
|----------------------------------|-----------------------------------------------------------------------------------|
| EXIF (or XMP) orientation 1..8   | upright pixels; unreadable metadata counts as 1                                   |
| 8-bit grey, 1-bit, YCbCr, HSV    | RGB                                                                               |
| 16-bit grey (I;16, I;16B, I)     | value / 257, rounded; values outside 0..65535 are an error                        |
| 16-bit RGB                       | the high byte, as Pillow reads it                                                 |
| float grey (F)                   | values in 0..1 times 255, values in 0..255 as they are; NaN and others are errors |
| palette                          | its colours                                                                       |
| RGBA, LA, PA, transparent colour | composited on `ImagePolicy.background`, white by default                          |
| CMYK                             | through its profile, else (255-ink)(255-black)/255                                |
| CMYK JPEG                        | as CMYK; its inks are taken as inverted exactly if it has Adobe's marker          |
| LAB                              | sRGB, white point D50                                                             |
| embedded ICC profile             | converted to sRGB; if invalid, above 4 MiB or for another mode it is ignored      |
| animation, several pages         | the first frame                                                                   |
| JPEG, PNG, WebP, GIF, BMP, TIFF  | read; no other decoder is even tried (AVIF can be added to `formats`)             |
| more than max_pixels, max_bytes  | an error, found in the header before a pixel is decoded                           |
| empty, truncated, damaged, other | an error                                                                          |
| array                            | uint8 (height, width), (…, 1), (…, 3) or (…, 4); anything else is an error        |
| path                             | read if it really lies under `ImagePolicy.root`; see `mmembed.image_paths`        |
| URL                              | an error: nothing here opens a network connection                                 |
"""

from mmembed.image_loading import ImagePolicy, load_image
from mmembed.image_paths import ImageError, resolve_under
from mmembed.image_scanning import ImageReader, ScanResult, scan_images

__all__ = ["ImageError", "ImagePolicy", "ImageReader", "ScanResult", "load_image", "resolve_under", "scan_images"]
