"""What the examples have in common: images, and networks that look at them.

In reading order:

    networks      LeNet-5, AlexNet, ResNet-18
    image_data    splits of a data set, as floats; random shifts
    image_bytes   photographs as bytes, of one size
    augmentation  crops, flips and holes, made in the compiled step
"""
