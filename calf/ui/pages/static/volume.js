// Vue's part of the page: it gives an element to what is plain JavaScript.
import { Volume } from "calf-volume";

export default {
  props: { options: Object },
  template: '<div class="calf-compare calf-volume"></div>',
  mounted() {
    this.volume = new Volume(this.$el, this.options);
  },
  unmounted() {
    this.volume.close();
  },
};
